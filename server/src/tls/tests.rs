//! TLS over real sockets on loopback, against rustls's buffered client.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio::net::TcpListener;

use super::*;
use crate::pki::{Authority, CertificateClock, DeviceRecord, DeviceVerifier, Registry, RegistryError};
use crate::turns::Turns;

const NOW_NS: i64 = 1_795_000_000 * 1_000_000_000;
const DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct One(DeviceRecord);

impl Registry for One {
    fn device(&self, name: &str) -> Result<Option<DeviceRecord>, RegistryError> {
        Ok((name == self.0.name).then(|| self.0.clone()))
    }
    fn put_device(&self, _: &DeviceRecord) -> Result<(), RegistryError> {
        Err(RegistryError {
            detail: "read-only".into(),
        })
    }
    fn list(&self) -> Result<Vec<DeviceRecord>, RegistryError> {
        Ok(vec![self.0.clone()])
    }
}

struct Hub {
    configs: TlsConfigs,
    authority: Authority,
    key_pem: String,
    certificate_pem: String,
    _dir: tempfile::TempDir,
}

fn hub() -> Hub {
    let dir = tempfile::tempdir().expect("a folder");
    let authority = Authority::init(dir.path(), NOW_NS).expect("an authority");
    let issued = authority.issue_device("phone", NOW_NS).expect("issued");
    let registry = Arc::new(One(DeviceRecord {
        name: "phone".into(),
        fingerprint_sha256_hex: issued.fingerprint_sha256_hex.clone(),
        serial_hex: issued.serial_hex.clone(),
        enrolled_utc_ns: NOW_NS,
        ..DeviceRecord::default()
    }));
    let identity = authority.hub_identity(NOW_NS, None, &[]).expect("a certificate");
    let verifier = DeviceVerifier::new([&authority], registry).expect("a verifier");
    let clock = CertificateClock::new([&authority], || NOW_NS);
    let configs = TlsConfigs::new(vec![identity], verifier, clock).expect("configurations");
    Hub {
        configs,
        authority,
        key_pem: issued.key_pem,
        certificate_pem: issued.certificate.certificate_pem,
        _dir: dir,
    }
}

/// Checks chain and name like a device does, at the tests' own time.
#[derive(Debug)]
struct AtNow(Arc<dyn ServerCertVerifier>);

impl ServerCertVerifier for AtNow {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let now = Duration::from_secs(u64::try_from(NOW_NS / 1_000_000_000).expect("positive"));
        self.0.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp,
            UnixTime::since_unix_epoch(now),
        )
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn client(
    hub: &Hub,
    version: &'static SupportedProtocolVersion,
    alpn: &[&str],
    with_certificate: bool,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(hub.authority.certificate().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .expect("a verifier");
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AtNow(verifier)));
    let mut config = if with_certificate {
        let certificate = CertificateDer::from_pem_slice(hub.certificate_pem.as_bytes()).expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(hub.key_pem.as_bytes()).expect("PEM");
        builder
            .with_client_auth_cert(vec![certificate], key)
            .expect("a pair")
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Arc::new(config)
}

type Client = rustls::StreamOwned<ClientConnection, std::net::TcpStream>;

fn dial(config: Arc<ClientConfig>, name: &str, address: SocketAddr) -> Client {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let socket = std::net::TcpStream::connect(address).expect("connected");
    rustls::StreamOwned::new(ClientConnection::new(config, name).expect("a client"), socket)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(future)
}

fn stamps() -> StampFn {
    let next = AtomicI64::new(1);
    Arc::new(move || next.fetch_add(1, Ordering::Relaxed))
}

/// Accepts one connection while `talk` runs as the client on a thread of its own.
async fn accept<T: Send + 'static>(
    hub: &Hub,
    deadline: Duration,
    talk: impl FnOnce(SocketAddr) -> T + Send + 'static,
) -> (Result<TlsStream, TlsError>, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let client = std::thread::spawn(move || talk(address));
    let (socket, _) = listener.accept().await.expect("accepted");
    (
        TlsStream::accept(
            socket,
            &hub.configs,
            (&BufferPool::new(), &Turns::default()),
            stamps(),
            deadline,
        )
        .await,
        client,
    )
}

async fn read_all(stream: &mut TlsStream, count: usize) -> (Vec<u8>, Vec<i64>) {
    let (mut bytes, mut at) = (Vec::new(), Vec::new());
    while bytes.len() < count {
        let ready = stream.ready(true).await.expect("ready");
        assert!(ready.readable);
        let received = stream.receive(|stamp_ns, plaintext| {
            bytes.extend_from_slice(plaintext);
            at.push(stamp_ns);
        });
        if matches!(received.expect("received"), Received::End { .. }) {
            break;
        }
    }
    (bytes, at)
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 31 % 251) as u8).collect()
}

#[test]
fn both_versions_carry_both_ways_and_idle_without_buffers() {
    let hub = hub();
    for (version, name) in [
        (&TLS13, hub.authority.hub_name().to_owned()),
        (&TLS12, "localhost".to_owned()),
    ] {
        let config = client(&hub, version, &["marey/1"], true);
        run(async {
            let (stream, client) = accept(&hub, DEADLINE, move |address| {
                let mut tls = dial(config, &name, address);
                tls.write_all(&pattern(3_000_000)).expect("sent");
                let mut back = vec![0; 300_000];
                tls.read_exact(&mut back).expect("received");
                assert_eq!(back, pattern(300_000));
                tls.conn.send_close_notify();
                tls.flush().expect("closed");
                let mut rest = Vec::new();
                tls.read_to_end(&mut rest).expect("a clean end");
                assert!(rest.is_empty());
            })
            .await;
            let mut stream = stream.expect("a handshake");
            assert_eq!(stream.alpn(), Alpn::Frames);
            let device = stream
                .peer_certificate()
                .and_then(crate::pki::device_of_certificate);
            assert_eq!(device.as_deref(), Some("phone"));
            let (bytes, at) = read_all(&mut stream, 3_000_000).await;
            assert_eq!(bytes, pattern(3_000_000));
            assert!(at.is_sorted() && at.len() > 10);

            let idle = tokio::time::timeout(Duration::from_millis(20), stream.ready(true)).await;
            assert!(idle.is_err(), "nothing to read");
            assert!(
                stream.held_bytes() <= 512,
                "an idle connection holds {} bytes",
                stream.held_bytes()
            );

            stream.send(&pattern(300_000)).expect("encrypted");
            while !stream.flush().expect("sent") {
                assert!(stream.ready(false).await.expect("ready").writable);
            }
            assert!(stream.held_bytes() <= 512);
            loop {
                stream.ready(true).await.expect("ready");
                match stream
                    .receive(|_, _| panic!("no more plaintext"))
                    .expect("received")
                {
                    Received::End { clean } => break assert!(clean),
                    Received::Nothing | Received::Some => {}
                }
            }
            stream.close(DEADLINE).await;
            client.join().expect("the client was content");
        });
    }
}

#[test]
fn plaintext_right_behind_the_handshake_is_not_lost() {
    let hub = hub();
    let config = client(&hub, &TLS13, &["marey/1"], true);
    let name = hub.authority.hub_name().to_owned();
    run(async {
        let (stream, client) = accept(&hub, DEADLINE, move |address| {
            let mut tls = dial(config, &name, address);
            // Buffered before the handshake ends, hence in one write with its last message.
            tls.conn.writer().write_all(b"hello").expect("buffered");
            tls.flush().expect("sent");
            let mut one = [0; 1];
            tls.read_exact(&mut one).expect("an answer");
        })
        .await;
        let mut stream = stream.expect("a handshake");
        let (bytes, at) = read_all(&mut stream, 5).await;
        assert_eq!(bytes, b"hello");
        assert!(at[0] > 1, "stamped by the read that brought it");
        stream.send(b"!").expect("encrypted");
        stream.flush().expect("sent");
        client.join().expect("the client was content");
    });
}

#[test]
fn no_connection_is_ever_resumed() {
    let hub = hub();
    for version in [&TLS13, &TLS12] {
        let config = client(&hub, version, &["marey/1"], true);
        for _ in 0..2 {
            let config = config.clone();
            run(async {
                let (stream, client) = accept(&hub, DEADLINE, move |address| {
                    let mut tls = dial(config, "localhost", address);
                    tls.write_all(b"x").expect("sent");
                    let mut one = [0; 1];
                    tls.read_exact(&mut one).expect("an answer");
                    tls.conn.handshake_kind()
                })
                .await;
                let mut stream = stream.expect("a handshake");
                read_all(&mut stream, 1).await;
                stream.send(b"!").expect("encrypted");
                stream.flush().expect("sent");
                let kind = client.join().expect("the client was content");
                assert!(matches!(
                    kind,
                    Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)
                ));
            });
        }
    }
}

#[test]
fn the_web_asks_for_no_certificate_and_frames_demand_one() {
    let hub = hub();
    let cases: [(&[&str], Option<Alpn>); 4] = [
        (&["h2", "http/1.1"], Some(Alpn::Web)),
        (&[], Some(Alpn::Web)),
        (&["marey/1"], None),
        (&["h2"], None),
    ];
    for (alpn, expected) in cases {
        let config = client(&hub, &TLS13, alpn, false);
        run(async {
            let (stream, client) = accept(&hub, DEADLINE, move |address| {
                let mut tls = dial(config, "localhost", address);
                let mut bytes = Vec::new();
                // Writing or reading fails where the hub refuses; its alert is the error.
                tls.write_all(b"GET")
                    .and_then(|()| tls.read_to_end(&mut bytes))
                    .err()
                    .map(|e| e.to_string())
            })
            .await;
            match (stream, expected) {
                (Ok(stream), Some(alpn)) => {
                    assert_eq!(stream.alpn(), alpn);
                    stream.close(DEADLINE).await;
                    assert_eq!(client.join().expect("a client"), None);
                }
                (Err(TlsError::Certificate(_) | TlsError::Protocol(_)), None) => {
                    let told = client.join().expect("a client").expect("the client is told");
                    let named = [
                        "CertificateRequired",
                        "certificate required",
                        "NoApplicationProtocol",
                        "no application protocol",
                    ]
                    .iter()
                    .any(|n| told.contains(n));
                    assert!(named, "{told}");
                }
                (stream, _) => panic!("{alpn:?}: {stream:?}"),
            }
        });
    }
}

#[test]
fn a_certificate_that_nobody_knows_is_named() {
    let (hub, other) = (hub(), hub());
    let config = client(&other, &TLS13, &["marey/1"], true);
    run(async {
        let (stream, client) = accept(&hub, DEADLINE, move |address| {
            let mut tls = dial(config, "localhost", address);
            tls.write_all(b"x").is_err()
        })
        .await;
        // The client refuses us first: our hub is not under its authority either.
        assert!(stream.is_err());
        assert!(client.join().expect("a client"));
    });
    let stranger = hub.authority.issue_device("stranger", NOW_NS).expect("issued");
    let as_stranger = Hub {
        key_pem: stranger.key_pem,
        certificate_pem: stranger.certificate.certificate_pem,
        ..hub
    };
    let config = client(&as_stranger, &TLS13, &["marey/1"], true);
    run(async {
        let (stream, client) = accept(&as_stranger, DEADLINE, move |address| {
            let mut tls = dial(config, "localhost", address);
            let _ = tls.write_all(b"x");
            tls.read(&mut [0; 1]).err().map(|e| e.kind())
        })
        .await;
        let error = stream.expect_err("refused");
        assert_eq!(
            error,
            TlsError::Certificate("the device stranger is not enrolled here".into())
        );
        assert!(matches!(
            client.join().expect("a client"),
            Some(ErrorKind::InvalidData)
        ));
    });
}

#[test]
fn garbage_and_silence_end_in_errors() {
    let hub = hub();
    run(async {
        let (stream, client) = accept(&hub, DEADLINE, |address| {
            let mut socket = std::net::TcpStream::connect(address).expect("connected");
            socket.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
            let mut bytes = Vec::new();
            let _ = socket.read_to_end(&mut bytes);
        })
        .await;
        assert!(matches!(stream.expect_err("no TLS"), TlsError::Protocol(_)));
        client.join().expect("a client");

        let (stream, client) = accept(&hub, Duration::from_millis(50), |address| {
            let socket = std::net::TcpStream::connect(address).expect("connected");
            std::thread::sleep(Duration::from_millis(200));
            drop(socket);
        })
        .await;
        assert_eq!(stream.expect_err("nothing came"), TlsError::Deadline(50));
        client.join().expect("a client");

        // A record header that announces more than TLS allows, after a valid start.
        let (stream, client) = accept(&hub, DEADLINE, |address| {
            let mut socket = std::net::TcpStream::connect(address).expect("connected");
            socket.write_all(&[0x16, 3, 1, 0xff, 0xff]).expect("sent");
            let _ = socket.write_all(&vec![0; 40_000]);
            let mut bytes = Vec::new();
            let _ = socket.read_to_end(&mut bytes);
        })
        .await;
        assert!(matches!(stream.expect_err("no TLS"), TlsError::Protocol(_)));
        client.join().expect("a client");
    });
}
