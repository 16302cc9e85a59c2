//! Configurations of both sides that never differ: the same input has the same result in every run.
//! Their keys and random numbers are constants, so they protect nothing.

use std::sync::{Arc, OnceLock};

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret,
    SupportedKxGroup,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, NamedGroup, RootCertStore, ServerConfig};

/// Returns the configuration of the server, as [`tickstorm_tls::server_config`] makes it, except
/// for its random numbers.
pub(super) fn server_config() -> Arc<ServerConfig> {
    Arc::clone(&configs().0)
}

pub(super) fn client_config() -> Arc<ClientConfig> {
    Arc::clone(&configs().1)
}

fn configs() -> &'static (Arc<ServerConfig>, Arc<ClientConfig>) {
    static CONFIGS: OnceLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = OnceLock::new();
    CONFIGS.get_or_init(|| {
        let key = private_key();
        let params = CertificateParams::new(["localhost".to_owned()]).expect("a valid name");
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ED25519).expect("a valid key");
        let certificate = params.self_signed(&pair).expect("a certificate");
        let chain = vec![certificate.der().clone()];
        let mut roots = RootCertStore::empty();
        roots.add(chain[0].clone()).expect("a valid certificate");
        let mut server = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::Pkcs8(key))
            .expect("a certificate and its key");
        server.enable_secret_extraction = true;
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let mut client = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.enable_secret_extraction = true;
        (Arc::new(server), Arc::new(client))
    })
}

/// Returns an Ed25519 key, whose signatures contain no random numbers.
fn private_key() -> PrivatePkcs8KeyDer<'static> {
    let mut der = vec![
        0x30, 0x2E, 2, 1, 0, 0x30, 5, 6, 3, 0x2B, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    der.extend([7; 32]);
    der.into()
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![&FixedKey],
        secure_random: &FixedNumbers,
        ..tickstorm_tls::provider()
    }
}

#[derive(Debug)]
struct FixedNumbers;

impl SecureRandom for FixedNumbers {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        buffer.fill(9);
        Ok(())
    }
}

/// X25519 with the same private key every time.
#[derive(Debug)]
struct FixedKey;

impl SupportedKxGroup for FixedKey {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let private = PrivateKey::from_private_key(&X25519, &[5; 32]).expect("a valid key");
        let public = private.compute_public_key().expect("a public key");
        let public = public.as_ref().to_vec();
        Ok(Box::new(FixedExchange { private, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct FixedExchange {
    private: PrivateKey,
    public: Vec<u8>,
}

impl ActiveKeyExchange for FixedExchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer = UnparsedPublicKey::new(&X25519, peer);
        let invalid = Error::General("an invalid public key".to_owned());
        agree(&self.private, peer, invalid, |secret| Ok(secret.into()))
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}
