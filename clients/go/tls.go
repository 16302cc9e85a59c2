package tickstorm

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
)

// LoadTLS returns a configuration of TLS for Options. It trusts the certificate authorities in the
// PEM file caFile or, if that is empty, those of the system. If certFile and keyFile are not empty,
// the client presents the certificate in them. These two files are read again for each connection,
// so a certificate can be renewed while the client runs.
func LoadTLS(caFile, certFile, keyFile string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("tickstorm: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tickstorm: %s contains no certificate in PEM format", caFile)
		}
	}
	if certFile == "" && keyFile == "" {
		return config, nil
	}
	if certFile == "" || keyFile == "" {
		return nil, fmt.Errorf("tickstorm: a client certificate needs both files, certFile and keyFile")
	}
	load := func() (*tls.Certificate, error) {
		// The errors of the standard library name the problem, and show nothing of the key.
		certificate, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("tickstorm: the certificate in %s with the key in %s: %w",
				certFile, keyFile, err)
		}
		return &certificate, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return load()
	}
	return config, nil
}

// tlsConfigFor returns the configuration for the edge at an address: the caller's, limited to what
// the protocol allows.
func tlsConfigFor(base *tls.Config, address string) *tls.Config {
	config := base.Clone()
	config.MinVersion = tls.VersionTLS13
	config.NextProtos = nil
	config.ClientSessionCache = nil
	config.SessionTicketsDisabled = true
	if config.ServerName == "" {
		if host, _, err := net.SplitHostPort(address); err == nil {
			config.ServerName = host
		}
	}
	return config
}
