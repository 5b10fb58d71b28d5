//! The protocol without sockets.

use marey_format::clock::{ProbeKind, ProbeRow};
use marey_format::frame::{DataBuilder, Value, control_frame};
use marey_format::registry::FrameName;
use marey_format::wire::{Acked, Holes};
use marey_format::{BootId, Declaration, EpochId, FieldType, Kind, Lane};

use super::*;

mod pace;

const EPOCH: EpochId = EpochId([7; 16]);
const SECOND_NS: i64 = 1_000_000_000;

fn device() -> DeviceId {
    DeviceId::new("phone").expect("a name")
}

fn session() -> SessionId {
    SessionId::new("walk").expect("a name")
}

fn seed() -> Seed {
    Seed::new(&device(), &session(), &EPOCH)
}

fn settings() -> Settings {
    Settings {
        hub: [0; 16],
        device: device(),
        credit_bytes: 10_000,
        heartbeat_ms: 3_000,
        idle_ms: 60_000,
        hello_timeout_ms: 10_000,
        hub_epoch: HubEpoch(5),
        udp_port: 8765,
        packet_key: PacketKey([1; 32]),
        key_id: KeyId(3),
        stamp_key: Arc::new(StampKey([2; 32])),
    }
}

struct Peer {
    protocol: Protocol,
    now_ns: i64,
}

impl Peer {
    fn new() -> Self {
        Self {
            protocol: Protocol::new(settings(), 0),
            now_ns: 0,
        }
    }

    /// A device that has been welcomed and has channel 1 open.
    fn open() -> Self {
        let mut peer = Self::new();
        peer.read(&hello(r#"{"v":1}"#));
        let actions = peer.read(&open(1));
        assert!(
            matches!(actions[..], [Action::Open { channel: 1, .. }]),
            "{actions:?}"
        );
        let mut actions = Vec::new();
        peer.protocol.opened(1, &opened(), &mut actions);
        assert!(matches!(&actions[..], [Action::Send(bytes)] if bytes[0] == MessageType::Opened as u8));
        peer
    }

    /// One read of the socket, a millisecond after the one before.
    fn read(&mut self, bytes: &[u8]) -> Vec<Action> {
        self.now_ns += 1_000_000;
        let mut actions = Vec::new();
        self.protocol.receive(self.now_ns, bytes, &mut actions);
        self.protocol.end_read(&mut actions);
        actions
    }
}

fn hello(json: &str) -> Vec<u8> {
    wire::message(MessageType::Hello, 0, json.as_bytes())
}

fn open(channel: u16) -> Vec<u8> {
    let open = Open {
        session: session(),
        epoch: EPOCH,
        boot: BootId::UNKNOWN,
        highest_ack: Acked::default(),
    };
    wire::json_message(MessageType::Open, channel, &open)
}

fn opened() -> Opened {
    Opened {
        session: session(),
        next: Acked::default(),
        holes: Holes::default(),
        recording: true,
    }
}

fn imu() -> Declaration {
    let declaration =
        Declaration::from_json(br#"{"name":"imu","fields":[{"name":"ax","type":"f32"}]}"#).expect("valid");
    assert_eq!(declaration.fields[0].kind, FieldType::F32);
    declaration
}

/// A data frame of stream 1 with this sequence.
fn data(sequence: u64) -> Vec<u8> {
    let mut builder = DataBuilder::new(&imu());
    for i in 0..3 {
        builder.push(i, &[Value::F32(0.5)]).expect("it fits");
    }
    builder
        .finish(1, sequence, 3 * sequence, seed())
        .expect("it fits")
}

fn live(kind: Kind, sequence: u64, payload: &[u8]) -> Vec<u8> {
    control_frame(kind, Lane::Live, 0, sequence, 9, 0, payload, seed()).expect("it fits")
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    wire::message(MessageType::Frame, 1, bytes)
}

fn refusals(actions: &[Action]) -> Vec<RefusalCode> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Refuse(refusal) => Some(refusal.code),
            _ => None,
        })
        .collect()
}

fn runs(actions: Vec<Action>) -> Vec<Run> {
    actions
        .into_iter()
        .filter_map(|action| match action {
            Action::Frames(run) => Some(run),
            _ => None,
        })
        .collect()
}

fn sequences(actions: Vec<Action>) -> Vec<u64> {
    runs(actions)
        .iter()
        .flat_map(|run| run.frames.iter().map(|f| f.header.sequence))
        .collect()
}

fn closed_with(actions: &[Action], code: RefusalCode) -> bool {
    refusals(actions).contains(&code) && actions.last() == Some(&Action::Close(End::Refused(code)))
}

#[test]
fn a_hello_is_welcomed_and_unknown_keys_are_ignored() {
    let mut peer = Peer::new();
    let actions = peer.read(&hello(
        r#"{"v":1,"device":"phone","agent":"test 1","colour":{"of":"sky"}}"#,
    ));
    let [
        Action::Send(welcome),
        Action::Attached {
            agent,
            commands: false,
        },
    ] = &actions[..]
    else {
        panic!("{actions:?}")
    };
    assert_eq!(agent.as_deref(), Some("test 1"));
    let welcome: Welcome = wire::parse_json(MessageType::Welcome, &welcome[8..]).expect("JSON");
    assert_eq!((welcome.credit, welcome.device), (10_000, device()));
    assert!(peer.protocol.is_attached());
}

#[test]
fn nothing_comes_before_the_hello() {
    for first in [
        open(1),
        frame(&data(0)),
        wire::message(MessageType::Bye, 0, b"{}"),
    ] {
        let actions = Peer::new().read(&first);
        assert!(refusals(&actions) == [RefusalCode::Unexpected], "{actions:?}");
        assert_eq!(
            actions.last(),
            Some(&Action::Close(End::Refused(RefusalCode::Unexpected)))
        );
    }
}

#[test]
fn a_wrong_version_or_device_ends_the_connection() {
    assert!(closed_with(
        &Peer::new().read(&hello(r#"{"v":2}"#)),
        RefusalCode::Version
    ));
    let other = Peer::new().read(&hello(r#"{"v":1,"device":"watch"}"#));
    assert!(closed_with(&other, RefusalCode::WrongDevice));
    assert!(closed_with(
        &Peer::new().read(&hello(r#"{"v":"one"}"#)),
        RefusalCode::Malformed
    ));
    assert!(closed_with(
        &Peer::new().read(&hello("no JSON")),
        RefusalCode::Malformed
    ));
}

#[test]
fn lengths_are_refused_before_their_bodies_come() {
    let header = |kind: MessageType, length: u32| {
        MessageHeader {
            kind,
            channel: 1,
            length,
        }
        .to_bytes()
    };
    let mut peer = Peer::open();
    let actions = peer.read(&header(MessageType::Frame, (1 << 20) + 8));
    assert!(closed_with(&actions, RefusalCode::FrameTooLarge));
    assert_eq!(peer.protocol.held_bytes(), 0);
    let actions = Peer::open().read(&header(MessageType::Open, 70_000));
    assert!(closed_with(&actions, RefusalCode::MessageTooLarge));
    let actions = Peer::new().read(&header(MessageType::Hello, 70_000));
    assert!(closed_with(&actions, RefusalCode::MessageTooLarge));
    let actions = Peer::open().read(&[0x7f, 0, 0, 0, 0, 0, 0, 0]);
    assert!(closed_with(&actions, RefusalCode::Malformed));
    let actions = Peer::open().read(&wire::message(MessageType::Sent, 1, &[0; 23]));
    assert!(closed_with(&actions, RefusalCode::Malformed));
}

#[test]
fn what_only_the_hub_sends_is_refused() {
    let actions = Peer::open().read(&wire::message(MessageType::Welcome, 0, b"{}"));
    assert_eq!(refusals(&actions), [RefusalCode::Unexpected]);
    assert_eq!(
        actions.last(),
        Some(&Action::Close(End::Refused(RefusalCode::Unexpected)))
    );
}

#[test]
fn frames_survive_any_cutting_into_pieces() {
    let mut bytes = Vec::new();
    for sequence in 0..5 {
        bytes.extend(wire::message(MessageType::Heartbeat, 0, br#"{"timestamp_ms":1}"#));
        bytes.extend(frame(&data(sequence)));
    }
    for size in [1, 3, 8, 47, 1000, bytes.len()] {
        let mut peer = Peer::open();
        let mut all = Vec::new();
        for piece in bytes.chunks(size) {
            all.extend(peer.read(piece));
        }
        let beats = all.iter().filter(|a| matches!(a, Action::Heartbeat(_))).count();
        assert_eq!(beats, 5, "pieces of {size}");
        let runs = runs(all);
        let frames: Vec<Vec<u8>> = runs
            .iter()
            .flat_map(|run| run.frames.iter().map(|f| run.frame_bytes(f).to_vec()))
            .collect();
        assert_eq!(frames, (0..5).map(data).collect::<Vec<_>>(), "pieces of {size}");
        assert_eq!(peer.protocol.held_bytes(), 0);
    }
}

#[test]
fn a_run_has_the_stamp_of_the_read_that_completed_it() {
    let mut peer = Peer::open();
    let whole = frame(&data(0));
    assert!(runs(peer.read(&whole[..20])).is_empty());
    let runs = runs(peer.read(&whole[20..]));
    assert_eq!(runs[0].recv_ns, peer.now_ns);
}

#[test]
fn what_was_said_of_sending_goes_with_the_frames_it_names() {
    let mut peer = Peer::open();
    let sent = Sent {
        dev_send_ns: 77,
        sequences: (0, 1),
    };
    let mut bytes = wire::message(MessageType::Sent, 1, &sent.to_bytes());
    bytes.extend(frame(&data(0)));
    bytes.extend(frame(&live(Kind::STATE, 0, b"{}")));
    bytes.extend(frame(&data(2)));
    let runs = runs(peer.read(&bytes));
    let said: Vec<_> = runs[0].frames.iter().map(|f| runs[0].dev_send_ns(f)).collect();
    assert_eq!(said, [Some(77), Some(77), None]);
}

#[test]
fn a_wrong_checksum_is_named_and_the_lane_waits_for_it() {
    let mut peer = Peer::open();
    let mut broken = data(1);
    *broken.last_mut().expect("not empty") ^= 1;
    let mut bytes = frame(&data(0));
    bytes.extend(frame(&broken));
    bytes.extend(frame(&data(2)));
    bytes.extend(frame(&live(Kind::STATE, 0, b"{}")));
    let actions = peer.read(&bytes);
    let refusal = actions.iter().find_map(|a| match a {
        Action::Refuse(refusal) => Some(refusal.clone()),
        _ => None,
    });
    let refusal = refusal.expect("refused");
    assert_eq!(refusal.code, RefusalCode::BadCrc);
    assert_eq!(refusal.channel, Some(1));
    assert_eq!(refusal.frame.map(|f| (f.lane, f.sequence)), Some((0, 1)));
    let taken: Vec<(Lane, u64)> = runs(actions)
        .iter()
        .flat_map(|r| r.frames.iter().map(|f| (f.header.lane, f.header.sequence)))
        .collect();
    assert_eq!(taken, [(Lane::Data, 0), (Lane::Live, 0)], "2 waits behind 1");
    let mut again = frame(&data(1));
    again.extend(frame(&data(2)));
    assert_eq!(sequences(peer.read(&again)), [1, 2]);
    assert!(peer.protocol.is_attached());
}

#[test]
fn a_frame_of_another_device_session_or_epoch_does_not_pass() {
    let build = |seed| {
        let mut builder = DataBuilder::new(&imu());
        builder.push(1, &[Value::F32(0.5)]).expect("it fits");
        builder.finish(1, 0, 0, seed).expect("it fits")
    };
    let watch = DeviceId::new("watch").expect("a name");
    let run = SessionId::new("run").expect("a name");
    for foreign in [
        Seed::new(&watch, &session(), &EPOCH),
        Seed::new(&device(), &run, &EPOCH),
        Seed::new(&device(), &session(), &EpochId([8; 16])),
    ] {
        let actions = Peer::open().read(&frame(&build(foreign)));
        assert_eq!(refusals(&actions), [RefusalCode::BadCrc]);
        assert!(sequences(actions).is_empty());
    }
}

#[test]
fn devices_may_not_write_what_is_the_hubs() {
    for kind in [Kind::EPOCH, Kind::ARRIVAL, Kind(0xff)] {
        let actions = Peer::open().read(&frame(&live(kind, 0, b"{}")));
        assert_eq!(refusals(&actions), [RefusalCode::NotForDevices], "{kind:?}");
    }
}

#[test]
fn what_is_no_frame_ends_the_connection() {
    let actions = Peer::open().read(&frame(&[0; 64]));
    assert!(closed_with(&actions, RefusalCode::Malformed));
    let mut longer = data(0);
    longer.extend([0; 8]);
    let mut bytes = frame(&data(0));
    bytes.extend(frame(&longer));
    let actions = Peer::open().read(&bytes);
    assert!(closed_with(&actions, RefusalCode::Malformed));
    assert_eq!(sequences(actions), [0], "what was whole before is kept");
}

#[test]
fn frames_need_an_open_channel() {
    let mut peer = Peer::new();
    peer.read(&hello(r#"{"v":1}"#));
    let actions = peer.read(&frame(&data(0)));
    assert_eq!(refusals(&actions), [RefusalCode::Unexpected]);
    peer.read(&open(1));
    let actions = peer.read(&frame(&data(0)));
    assert_eq!(
        refusals(&actions),
        [RefusalCode::Unexpected],
        "opened was not said yet"
    );
    assert!(
        peer.protocol.may_read(peer.now_ns),
        "refused bytes are given back"
    );
    assert_eq!(peer.protocol.credit(), 10_000 + 2 * data(0).len() as u64);
}

#[test]
fn channels_are_counted_and_named_once() {
    let mut peer = Peer::open();
    assert_eq!(refusals(&peer.read(&open(1))), [RefusalCode::Unexpected]);
    for channel in 2..=16 {
        assert!(refusals(&peer.read(&open(channel))).is_empty());
    }
    assert_eq!(refusals(&peer.read(&open(17))), [RefusalCode::TooMany]);
    let mut actions = Vec::new();
    let gone = Refusal::new(RefusalCode::UnknownSession, "no such session");
    peer.protocol.open_refused(16, gone, &mut actions);
    assert_eq!(refusals(&actions), [RefusalCode::UnknownSession]);
    assert!(
        refusals(&peer.read(&open(17))).is_empty(),
        "a refused channel is free again"
    );
    assert!(closed_with(&peer.read(&open(0)), RefusalCode::Malformed));
}

#[test]
fn a_device_past_its_credit_is_not_read() {
    let mut peer = Peer::open();
    let bytes = data(0).len() as u64;
    let mut sequence = 0;
    while peer.protocol.may_read(peer.now_ns) {
        assert_eq!(sequences(peer.read(&frame(&data(sequence)))), [sequence]);
        sequence += 1;
    }
    assert_eq!(sequence, 10_000 / bytes + 1);
    assert_eq!(peer.protocol.credit(), 10_000);
    peer.protocol.resolved(bytes);
    assert!(peer.protocol.may_read(peer.now_ns));
    assert_eq!(peer.protocol.credit(), 10_000 + bytes);
    peer.protocol.resolved(u64::MAX / 2);
    assert_eq!(
        peer.protocol.credit(),
        10_000 + sequence * bytes,
        "no more than was sent is given back"
    );
}

#[test]
fn frames_refused_by_the_store_hold_their_lane() {
    let mut peer = Peer::open();
    assert_eq!(sequences(peer.read(&frame(&data(0)))), [0]);
    let mut actions = Vec::new();
    let mut refusal = Refusal::new(RefusalCode::UndeclaredStream, "declare stream 1 first");
    refusal.frame = Some(FrameName { lane: 0, sequence: 0 });
    peer.protocol.frame_refused(1, refusal, &mut actions);
    assert_eq!(refusals(&actions), [RefusalCode::UndeclaredStream]);
    assert!(sequences(peer.read(&frame(&data(1)))).is_empty());
    let declare =
        control_frame(Kind::DECLARE, Lane::Live, 1, 0, 0, 0, &imu().to_json(), seed()).expect("it fits");
    let mut bytes = frame(&declare);
    bytes.extend(frame(&data(0)));
    bytes.extend(frame(&data(1)));
    assert_eq!(sequences(peer.read(&bytes)), [0, 0, 1]);
}

#[test]
fn probe_rows_must_carry_the_hubs_own_tag_and_hold_nothing_up() {
    let key = StampKey([2; 32]);
    let mut row = ProbeRow {
        kind: ProbeKind::Udp,
        hub_epoch: HubEpoch(5),
        nonce: 1,
        dev_send_ns: 2,
        hub_recv_ns: 3,
        hub_send_ns: 4,
        dev_recv_ns: 5,
        tag: key.tag(&device(), HubEpoch(5), 1, 2, 3, 4),
    };
    let probes = |row: &ProbeRow, sequence| {
        let mut payload = Vec::new();
        row.put(&mut payload);
        frame(&control_frame(Kind::PROBES, Lane::Live, 0, sequence, 9, 1, &payload, seed()).expect("it fits"))
    };
    let mut peer = Peer::open();
    assert_eq!(sequences(peer.read(&probes(&row, 0))), [0]);
    let told = ProbeRow {
        kind: ProbeKind::Told,
        ..row
    };
    assert_eq!(
        refusals(&peer.read(&probes(&told, 1))),
        [RefusalCode::BadProbe],
        "its tag is one that the hub gave"
    );
    row.hub_send_ns += 1;
    assert_eq!(refusals(&peer.read(&probes(&row, 1))), [RefusalCode::BadProbe]);
    assert_eq!(sequences(peer.read(&frame(&live(Kind::STATE, 2, b"{}")))), [2]);
}

#[test]
fn in_band_probes_are_answered_only_under_the_connections_key() {
    let request = TimePacket {
        direction: Direction::Request,
        key_id: 3,
        nonce: 9,
        dev_send_ns: 1,
        hub_epoch: HubEpoch(0),
        hub_recv_ns: 0,
        hub_send_ns: 0,
        tag: [0; 8],
    };
    let message = |packet: TimePacket, key| wire::message(MessageType::Probe, 0, &packet.to_bytes(&key));
    let mut peer = Peer::open();
    let actions = peer.read(&message(request, PacketKey([1; 32])));
    assert_eq!(
        actions,
        [Action::Probe {
            request,
            hub_recv_ns: peer.now_ns
        }]
    );
    assert!(peer.read(&message(request, PacketKey([9; 32]))).is_empty());
    assert!(
        peer.read(&message(TimePacket { key_id: 4, ..request }, PacketKey([1; 32])))
            .is_empty()
    );
    let reply = TimePacket {
        direction: Direction::Reply,
        ..request
    };
    assert!(peer.read(&message(reply, PacketKey([1; 32]))).is_empty());
}

#[test]
fn silence_ends_the_connection() {
    let mut peer = Peer::new();
    let mut actions = Vec::new();
    peer.protocol.expire(9 * SECOND_NS, &mut actions);
    assert!(actions.is_empty());
    peer.protocol.expire(10 * SECOND_NS, &mut actions);
    assert_eq!(actions, [Action::Close(End::Idle)]);

    let mut peer = Peer::open();
    assert!(peer.protocol.deadline_ns() > 60 * SECOND_NS);
    peer.now_ns = 50 * SECOND_NS;
    peer.read(&wire::message(
        MessageType::Heartbeat,
        0,
        br#"{"timestamp_ms":1}"#,
    ));
    let mut actions = Vec::new();
    peer.protocol.expire(100 * SECOND_NS, &mut actions);
    assert!(actions.is_empty(), "heard 50 s ago");
    peer.protocol.expire(111 * SECOND_NS, &mut actions);
    assert_eq!(actions, [Action::Close(End::Idle)]);
    assert!(
        peer.read(&frame(&data(0))).is_empty(),
        "nothing is taken after the end"
    );
}

#[test]
fn a_closed_session_drops_late_frames_in_silence() {
    let mut peer = Peer::open();
    let mut actions = Vec::new();
    peer.protocol
        .close_session(&session(), RefusalCode::SessionClosed, &mut actions);
    let [Action::Send(closed)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(closed[0], MessageType::Closed as u8);
    assert!(peer.read(&frame(&data(0))).is_empty());
    assert!(
        matches!(peer.read(&open(1))[..], [Action::Open { channel: 1, .. }]),
        "it may be opened again"
    );
}

#[test]
fn bye_and_the_hubs_own_end_flush_what_is_whole() {
    let mut peer = Peer::open();
    let mut bytes = frame(&data(0));
    bytes.extend(wire::message(MessageType::Bye, 0, b"{}"));
    let actions = peer.read(&bytes);
    assert_eq!(actions.last(), Some(&Action::Close(End::Bye)));
    assert_eq!(sequences(actions), [0]);

    let mut peer = Peer::open();
    let mut actions = Vec::new();
    peer.protocol.close(RefusalCode::ShuttingDown, &mut actions);
    let [
        Action::Send(closed),
        Action::Close(End::Hub(RefusalCode::ShuttingDown)),
    ] = &actions[..]
    else {
        panic!("{actions:?}")
    };
    assert_eq!(closed[0], MessageType::Closed as u8);
}

#[test]
fn nothing_is_said_after_the_end() {
    let mut peer = Peer::open();
    peer.read(&wire::message(MessageType::Bye, 0, b"{}"));
    let mut actions = Vec::new();
    peer.protocol
        .close_session(&session(), RefusalCode::SessionClosed, &mut actions);
    peer.protocol.opened(1, &opened(), &mut actions);
    peer.protocol.join(&session(), None, &mut actions);
    peer.protocol.close(RefusalCode::ShuttingDown, &mut actions);
    assert_eq!(actions, []);
}

#[test]
fn a_refusal_that_was_overtaken_by_an_ack_holds_nothing_up() {
    let mut peer = Peer::open();
    let all = [frame(&data(0)), frame(&data(1)), frame(&data(2))].concat();
    assert_eq!(sequences(peer.read(&all)), [0, 1, 2]);
    let refuse = |peer: &mut Peer, sequence| {
        let mut refusal = Refusal::new(RefusalCode::DiskFloor, "no room");
        refusal.frame = Some(FrameName { lane: 0, sequence });
        peer.protocol.frame_refused(1, refusal, &mut Vec::new());
    };
    // The first run fails, and the device sends everything again; then the second one's failure is told, and then that all
    // of it is durable: the device has nothing left to send below that.
    refuse(&mut peer, 0);
    assert_eq!(sequences(peer.read(&all)), [0, 1, 2]);
    refuse(&mut peer, 1);
    peer.protocol.durable(1, [3, 0], &mut Vec::new());
    assert_eq!(sequences(peer.read(&frame(&data(3)))), [3]);
    // Nor does one that comes after the ack.
    peer.protocol.durable(1, [4, 0], &mut Vec::new());
    refuse(&mut peer, 2);
    assert_eq!(sequences(peer.read(&frame(&data(4)))), [4]);
    // What is not durable is waited for as ever.
    refuse(&mut peer, 4);
    assert_eq!(sequences(peer.read(&frame(&data(5)))), [0u64; 0]);
}

#[test]
fn what_was_dropped_behind_a_frame_that_is_durable_after_all_must_come_again() {
    let mut peer = Peer::open();
    assert_eq!(sequences(peer.read(&frame(&data(0)))), [0]);
    let mut refusal = Refusal::new(RefusalCode::StorageFailed, "no room");
    refusal.frame = Some(FrameName { lane: 0, sequence: 0 });
    peer.protocol.frame_refused(1, refusal, &mut Vec::new());
    // These were under way before the device had the refusal.
    let behind = [frame(&data(1)), frame(&data(2))].concat();
    assert_eq!(sequences(peer.read(&behind)), [0u64; 0]);
    // The record of 0 waited for room, and got it.
    let mut actions = Vec::new();
    peer.protocol.durable(1, [1, 0], &mut actions);
    let [Action::Refuse(refusal)] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert_eq!(refusal.frame, Some(FrameName { lane: 0, sequence: 1 }));
    assert!(refusal.code.is_passing());
    let last = sequences(peer.read(&frame(&data(3))));
    assert_eq!(last, [0u64; 0], "an ack may not pass over 1 and 2");
    let again = [frame(&data(1)), frame(&data(2)), frame(&data(3))].concat();
    assert_eq!(sequences(peer.read(&again)), [1, 2, 3]);
}
