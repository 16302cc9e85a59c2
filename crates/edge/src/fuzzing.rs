//! Private code of the edge, as the fuzz targets and the replays of their corpora call it: nothing
//! here but wrappers. It is not part of the API.

mod script;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use tickstorm_protocol::message::Auth;

use self::script::Script;
use crate::auth::{AcceptedCredentials, Cookie, DeviceId};
use crate::ip_lists::IpListWatcher;
use crate::networks::Networks;
use crate::sys::network::{BUFFER_MIN, Network as _, Received};
use crate::sys::proxied::{Proxied, ProxyFault};
use crate::{CredentialSources, CredentialsError, IpListError, IpListSources};

/// The only trusted load balancer.
const BALANCER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

/// The input of a connection behind [`Proxied`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxiedInput {
    /// The client that a header has named.
    pub client: Option<SocketAddr>,
    /// The bytes that the shard has read, without the header.
    pub bytes: Vec<u8>,
    /// The fault because of which the connection was closed, as its debug output.
    pub fault: Option<String>,
}

/// Receives a connection's input, which arrives in `pieces` and then ends. Also returns the most
/// bytes that were buffered while it was not known what the input starts with.
///
/// # Panics
/// Panics if a read fails for another reason than a [`ProxyFault`].
#[must_use]
pub fn receive_proxied(is_from_balancer: bool, pieces: &[&[u8]]) -> (ProxiedInput, usize) {
    let peer = if is_from_balancer { BALANCER } else { OTHER };
    let balancers = Networks::from_iter([IpNet::from(BALANCER)]);
    let mut network = Proxied::new(Script::new(peer, pieces), Some(balancers));
    let (socket, _) = network.accept().expect("the script accepts");
    let (mut input, mut buffered_max) = (ProxiedInput::default(), 0);
    let mut buffer = vec![0; BUFFER_MIN];
    loop {
        match network.receive(&socket, &mut buffer) {
            Ok(Received::Bytes { len, .. }) => input.bytes.extend_from_slice(&buffer[..len]),
            Ok(Received::End) => return (input, buffered_max),
            Err(error) => match (ProxyFault::of(&error), error.kind()) {
                (Some(fault), _) => {
                    input.fault = Some(format!("{fault:?}"));
                    return (input, buffered_max);
                }
                (None, ErrorKind::Interrupted) => {
                    input.client = network.take_client_address(&socket);
                }
                (None, ErrorKind::WouldBlock) => {
                    buffered_max = buffered_max.max(network.buffered(&socket));
                }
                (None, _) => panic!("a read failed: {error}"),
            },
        }
    }
}

/// The credentials that an edge accepts, and their cookies.
pub struct Credentials(AcceptedCredentials);

impl Credentials {
    /// Reads the credentials. Keys of cookies that are derived from passwords are not derived.
    ///
    /// # Errors
    /// A file can't be read or is not valid.
    pub fn load(sources: &CredentialSources) -> Result<Self, CredentialsError> {
        AcceptedCredentials::load(sources).map(|(accepted, _)| Self(accepted))
    }

    /// Returns whether `auth` has valid credentials.
    #[must_use]
    pub fn accept(&self, auth: &Auth) -> bool {
        self.0.verify(auth).is_some()
    }

    /// Issues the cookie of a device that has logged in with `auth`; `None` if its credentials are
    /// not valid or their cookies have no key.
    #[must_use]
    pub fn issue(&self, auth: &Auth, device: [u8; 16]) -> Option<Vec<u8>> {
        let identity = self.0.verify(auth)?;
        let device = DeviceId::from_bytes(device);
        let cookie = self.0.issue_cookie(identity, auth, device)?;
        Some(cookie.as_bytes().to_vec())
    }

    /// Returns the device whose cookie `auth` presents, if the cookie is valid.
    #[must_use]
    pub fn device_of(&self, auth: &Auth) -> Option<[u8; 16]> {
        let cookie = Cookie::parse(&auth.cookie)?;
        self.0.device_of(auth, &cookie).map(DeviceId::to_bytes)
    }
}

/// Reads lists of networks, and returns whether a client may connect from an address.
///
/// # Errors
/// A file can't be read or is not valid.
pub fn load_ip_lists(
    sources: IpListSources,
) -> Result<impl Fn(IpAddr) -> bool + use<>, IpListError> {
    let lists = IpListWatcher::load(sources)?.lists().borrow().clone();
    Ok(move |ip| lists.permit(ip))
}
