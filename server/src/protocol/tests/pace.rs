//! Control messages that come faster than they may.

use super::*;
use marey_format::limits::{CONTROL_MESSAGES_AT_ONCE, CONTROL_MESSAGES_PER_S};

#[test]
fn control_messages_without_end_are_read_no_faster_than_they_may_come() {
    let mut peer = Peer::open();
    let beat = wire::message(MessageType::Heartbeat, 0, br#"{"timestamp_ms":1}"#);
    let at_once = usize::try_from(CONTROL_MESSAGES_AT_ONCE).expect("it is small");
    let actions = peer.read(&beat.repeat(at_once + 100));
    assert_eq!(actions.len(), at_once + 100, "what was read is not lost");
    assert!(!peer.protocol.may_read(peer.now_ns));
    let wait_ns = peer.protocol.readable_ns() - peer.now_ns;
    let owed = 102 * 1_000_000_000 / CONTROL_MESSAGES_PER_S;
    assert!((owed - 10_000_000..=owed).contains(&wait_ns), "{wait_ns}");
    assert!(peer.protocol.may_read(peer.now_ns + wait_ns));
    peer.protocol.lift_pace();
    peer.read(&beat.repeat(at_once));
    assert!(
        peer.protocol.may_read(peer.now_ns),
        "what somebody left behind who is gone"
    );
}

#[test]
fn frames_are_not_counted_among_control_messages_nor_is_what_comes_with_them() {
    let mut peer = Peer::open();
    let sent = wire::message(MessageType::Sent, 1, &[0; Sent::BYTES]);
    for sequence in 0..4_000 {
        peer.read(&sent);
        let bytes = frame(&data(sequence));
        assert_eq!(sequences(peer.read(&bytes)), [sequence]);
        peer.protocol.resolved(data(sequence).len() as u64);
    }
    assert!(peer.protocol.may_read(peer.now_ns));
    // One that no frame follows is one like any other.
    peer.read(&sent.repeat(4_000));
    assert!(!peer.protocol.may_read(peer.now_ns));
}

#[test]
fn frames_that_are_refused_are_counted() {
    let mut peer = Peer::new();
    peer.read(&hello(r#"{"v":1}"#));
    peer.read(&frame(&data(0)).repeat(4_000));
    assert!(!peer.protocol.may_read(peer.now_ns));
}
