//! The proxy against plain sockets.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::thread;

use super::*;

const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(30);

/// Echoes one TCP connection after another and all datagrams, until the process ends.
fn echo_hub() -> (SocketAddr, SocketAddr) {
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addrs = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut from = stream.try_clone().unwrap();
            thread::spawn(move || {
                let _cut = std::io::copy(&mut from, &mut stream);
                let _closed = stream.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((count, from)) = udp.recv_from(&mut buffer) {
            udp.send_to(&buffer[..count], from).unwrap();
        }
    });
    addrs
}

fn start(plan: NetworkPlan) -> Network {
    let (tcp, udp) = echo_hub();
    Network::start(plan, tcp, udp).unwrap()
}

fn path(delay: Duration, jitter: Duration, udp_loss: f64) -> PathPlan {
    PathPlan {
        delay,
        jitter,
        udp_loss,
    }
}

#[test]
fn tcp_is_late_whole_and_in_order() {
    let plan = NetworkPlan {
        seed: 1,
        up: path(3 * MS, MS, 0.0),
        down: path(6 * MS, MS, 0.0),
        cuts: Vec::new(),
    };
    let network = start(plan);
    let mut device = TcpStream::connect(network.tcp_addr()).unwrap();
    let began = Instant::now();
    device.write_all(b"x").unwrap();
    device.read_exact(&mut [0]).unwrap();
    assert!(began.elapsed() >= 9 * MS);
    let sent: Vec<u8> = (0..3_000_000u32)
        .map(|i| i.to_le_bytes()[(i % 3) as usize])
        .collect();
    let mut writing = device.try_clone().unwrap();
    let (copy, mut received) = (sent.clone(), Vec::new());
    let writer = thread::spawn(move || {
        writing.write_all(&copy).unwrap();
        writing.shutdown(std::net::Shutdown::Write).unwrap();
    });
    device.read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    let (up_ns, down_ns) = network.least_delays_ns();
    assert!((3_000_000..6_000_000).contains(&up_ns.unwrap()), "{up_ns:?}");
    assert!((6_000_000..9_000_000).contains(&down_ns.unwrap()), "{down_ns:?}");
    assert_eq!(network.traffic().up_bytes, 3_000_001);
}

#[test]
fn a_network_without_delay_adds_little() {
    let network = start(NetworkPlan::default());
    let device = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    device.connect(network.udp_addr()).unwrap();
    for _ in 0..200 {
        device.send(b"ping").unwrap();
        device.recv(&mut [0; 8]).unwrap();
    }
    let least_ns = network.least_round_trip_ns().unwrap();
    assert!(least_ns < 1_000_000, "{least_ns} ns for both ways");
}

#[test]
fn datagrams_are_lost_as_often_as_told() {
    let network = start(NetworkPlan {
        seed: 4,
        up: path(MS, MS, 0.3),
        ..NetworkPlan::default()
    });
    let device = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    device.connect(network.udp_addr()).unwrap();
    device.set_read_timeout(Some(200 * MS)).unwrap();
    let mut heard = 0;
    for round in 1..=10 {
        for number in 0..50u8 {
            device.send(&[number]).unwrap();
        }
        let until = Instant::now() + LONG;
        while heard + network.traffic().datagrams_lost < 50 * round && Instant::now() < until {
            heard += u64::from(device.recv(&mut [0; 8]).is_ok());
        }
    }
    let lost = network.traffic().datagrams_lost;
    assert!((100..200).contains(&lost), "{lost}");
    assert_eq!(heard + lost, 500);
}

#[test]
fn a_cut_closes_refuses_and_ends() {
    let (after, lasting) = (50 * MS, 2_000 * MS);
    let began = Instant::now();
    let network = start(NetworkPlan {
        cuts: vec![Cut { after, lasting }],
        ..NetworkPlan::default()
    });
    let mut device = TcpStream::connect(network.tcp_addr()).unwrap();
    device.set_read_timeout(Some(LONG)).unwrap();
    assert!(!matches!(device.read(&mut [0]), Ok(1..)));
    assert!(began.elapsed() >= after, "{:?}", began.elapsed());
    let echoes = |network: &Network| {
        let mut device = TcpStream::connect(network.tcp_addr()).unwrap();
        device.write_all(b"x").is_ok() && matches!(device.read(&mut [0]), Ok(1))
    };
    while !echoes(&network) {
        assert!(began.elapsed() < LONG, "{:?}", network.traffic());
        thread::sleep(20 * MS);
    }
    assert!(began.elapsed() >= after + lasting, "{:?}", began.elapsed());
    let traffic = network.traffic();
    assert_eq!(traffic.cuts, 1);
    assert!(traffic.connections_refused > 0, "{traffic:?}");
}
