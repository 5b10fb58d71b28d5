//! The plainest server that gives the same guarantee: tokio and tokio-rustls, mutual TLS with the hub's own certificates,
//! a task for each connection that reads, writes and acknowledges. It checks nothing of a frame and keeps no index.

use crate::log::Block;
use bytes::{Buf, BytesMut};
use marey_benches::apart::{raise_open_files, say_and_wait};
use marey_format::HubEpoch;
use marey_format::wire::{
    self, Ack, Acked, Holes, MESSAGE_HEADER_BYTES, MessageHeader, MessageType, Opened, Welcome,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

/// Bytes that a connection may have under way, as a hub gives them.
const CREDIT_BYTES: u64 = 4 << 20;

/// Names of its threads begin so.
pub const THREADS: &[&str] = &["floor"];

/// What an ack of it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// Written to a file of the connection's own.
    Written,
    /// In one file of fixed size, written and synced for all who wait.
    Durable,
    /// There are none: nobody is to send it a frame.
    Nothing,
}

/// A running floor. It ends with this value.
pub struct Floor {
    pub address: SocketAddr,
    _runtime: Runtime,
}

/// Bytes to make durable, and whom to tell.
type Job = (Vec<u8>, oneshot::Sender<()>);

impl Floor {
    /// With the certificates of the hub in `hub`, and its files in `dir`.
    pub fn start(hub: &Path, dir: &Path, guarantee: Guarantee) -> Result<Self, String> {
        std::fs::create_dir(dir).map_err(|error| error.to_string())?;
        let acceptor = TlsAcceptor::from(Arc::new(tls_config(hub)?));
        let (commit, jobs) = mpsc::channel::<Job>();
        if guarantee == Guarantee::Durable {
            let block = Block::create(&dir.join("block"))?;
            std::thread::Builder::new()
                .name("floor-commit".into())
                .spawn(move || group_commit(block, &jobs))
                .map_err(|error| error.to_string())?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("floor-net")
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let listener = runtime
            .block_on(TcpListener::bind(("127.0.0.1", 0)))
            .map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let dir = dir.to_owned();
        runtime.spawn(async move {
            let number = AtomicU64::new(0);
            while let Ok((socket, _)) = listener.accept().await {
                let path = dir.join(number.fetch_add(1, Ordering::Relaxed).to_string());
                let (acceptor, commit) = (acceptor.clone(), commit.clone());
                tokio::spawn(async move {
                    if let Err(error) = serve(socket, acceptor, path, commit, guarantee).await
                        && error.kind() != io::ErrorKind::UnexpectedEof
                    {
                        eprintln!("the floor: {error}");
                    }
                });
            }
        });
        Ok(Self {
            address,
            _runtime: runtime,
        })
    }
}

/// A floor in this process alone, of which nothing is wanted but handshakes, until the process is to end.
pub fn serve_apart(hub: &Path) -> ExitCode {
    raise_open_files();
    match Floor::start(hub, &hub.join("floor"), Guarantee::Nothing) {
        Ok(floor) => {
            say_and_wait(floor.address);
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("the floor: {why}");
            ExitCode::FAILURE
        }
    }
}

fn tls_config(hub: &Path) -> Result<ServerConfig, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut roots = RootCertStore::empty();
    let authority =
        CertificateDer::from_pem_file(hub.join("pki/ca.cert.pem")).map_err(|error| text(&error))?;
    roots.add(authority).map_err(|error| text(&error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| text(&error))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(hub.join("pki/hub.cert.pem"))
        .map_err(|error| text(&error))?
        .collect();
    let key = PrivateKeyDer::from_pem_file(hub.join("pki/hub.key.pem")).map_err(|error| text(&error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| text(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.map_err(|error| text(&error))?, key)
        .map_err(|error| text(&error))?;
    config.alpn_protocols = vec![wire::ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What waits while a sync is under way goes into the next write.
fn group_commit(mut block: Block, jobs: &mpsc::Receiver<Job>) {
    let mut bytes = Vec::new();
    while let Ok(job) = jobs.recv() {
        let mut waiting = Vec::new();
        bytes.clear();
        for (frames, done) in std::iter::once(job).chain(jobs.try_iter()) {
            bytes.extend_from_slice(&frames);
            waiting.push(done);
            if bytes.len() >= 4 << 20 {
                break;
            }
        }
        if let Err(error) = block.write(&bytes) {
            eprintln!("the floor: {error}");
            return;
        }
        for done in waiting {
            // A connection that is gone needs no word.
            let _ = done.send(());
        }
    }
}

async fn serve(
    socket: TcpStream,
    acceptor: TlsAcceptor,
    path: PathBuf,
    commit: mpsc::Sender<Job>,
    guarantee: Guarantee,
) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut tls = acceptor.accept(socket).await?;
    let mut file = match guarantee {
        Guarantee::Nothing => None,
        _ => Some(File::create_new(path)?),
    };
    let mut buffer = BytesMut::with_capacity(64 << 10);
    let (mut durable, mut credit) = ([0, 0], CREDIT_BYTES);
    // What the socket takes later than it was written waits in the session for a flush, and the device may wait for just that.
    loop {
        if tls.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let mut frames = Vec::new();
        while let Some(header) = buffer.first_chunk::<MESSAGE_HEADER_BYTES>() {
            let header = MessageHeader::parse(*header).map_err(io::Error::other)?;
            let length = MESSAGE_HEADER_BYTES + header.length as usize;
            if buffer.len() < length {
                buffer.reserve(length);
                break;
            }
            match header.kind {
                MessageType::Hello => tls.write_all(&welcome()).await?,
                MessageType::Open => tls.write_all(&opened()).await?,
                MessageType::Frame => {
                    let frame = &buffer[MESSAGE_HEADER_BYTES..length];
                    frames.extend_from_slice(frame);
                    credit += frame.len() as u64;
                    // The declaration comes first, in the other lane.
                    durable[usize::from(durable[1] == 0)] += 1;
                }
                _ => {}
            }
            buffer.advance(length);
        }
        if frames.is_empty() {
            tls.flush().await?;
            continue;
        }
        match (guarantee, &mut file) {
            (Guarantee::Written, Some(file)) => file.write_all(&frames)?,
            _ => {
                let (done, is_done) = oneshot::channel();
                commit.send((frames, done)).map_err(io::Error::other)?;
                is_done.await.map_err(io::Error::other)?;
            }
        }
        let ack = Ack {
            durable,
            safe: [0, 0],
            credit,
            hub_epoch: HubEpoch(0),
            hub_send_ns: 0,
            tag: [0; 8],
        };
        tls.write_all(&wire::message(MessageType::Ack, 1, &ack.to_bytes()))
            .await?;
        tls.flush().await?;
    }
}

fn welcome() -> Vec<u8> {
    let welcome = Welcome {
        v: 1,
        hub: "00".repeat(16),
        device: "floor".parse().expect("it is a name"),
        credit: CREDIT_BYTES,
        heartbeat_ms: 60_000,
        idle_ms: 600_000,
        hub_epoch: HubEpoch(0),
        time: None,
    };
    wire::json_message(MessageType::Welcome, 0, &welcome)
}

fn opened() -> Vec<u8> {
    let opened = Opened {
        session: marey_benches::session(),
        next: Acked::default(),
        holes: Holes::default(),
        recording: true,
    };
    wire::json_message(MessageType::Opened, 1, &opened)
}
