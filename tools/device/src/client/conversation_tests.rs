//! The protocol without a socket.

use marey_format::frame::Value;
use marey_format::wire::{Acked, Holes, MESSAGE_HEADER_BYTES, MessageHeader};
use marey_format::{BootId, Declaration, DeviceId, HubEpoch, SessionId};

use super::*;
use crate::buffer::{BufferOptions, WhenFull};
use crate::capture::{FrameOptions, Timing};

const BOOT: BootId = BootId([1; 16]);

fn state() -> State {
    State::open(
        DeviceId::new("belt").unwrap(),
        BufferOptions::default(),
        FrameOptions::default(),
    )
    .unwrap()
}

fn incoming<T: serde::Serialize>(kind: MessageType, channel: u16, body: &T) -> Incoming {
    Incoming {
        kind,
        channel,
        body: serde_json::to_vec(body).unwrap(),
        dev_recv_ns: 0,
    }
}

fn welcomed(state: &mut State, credit: u64) -> Conversation {
    let mut conversation = Conversation::new();
    let welcome = Welcome {
        v: 1,
        hub: "h".into(),
        device: state.device.clone(),
        credit,
        heartbeat_ms: 60_000,
        idle_ms: 1,
        hub_epoch: HubEpoch(1),
        time: None,
    };
    let effect = say(
        &mut conversation,
        state,
        incoming(MessageType::Welcome, 0, &welcome),
    );
    assert!(matches!(effect, Ok(Some(Effect::Welcomed))));
    conversation
}

fn say(
    conversation: &mut Conversation,
    state: &mut State,
    message: Incoming,
) -> Result<Option<Effect>, Refusal> {
    conversation.on_message(message, state, Instant::now(), 0)
}

/// The messages that are composed at `now`: type, channel, body.
fn compose(
    conversation: &mut Conversation,
    state: &mut State,
    now: Instant,
) -> Vec<(MessageType, u16, Vec<u8>)> {
    let mut bytes = Vec::new();
    let stamps = conversation.compose(state, now, 5, &mut bytes);
    let mut messages = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let header = MessageHeader::parse(*bytes[at..].first_chunk().unwrap()).unwrap();
        let body = at + MESSAGE_HEADER_BYTES;
        at = body + header.length as usize;
        assert_eq!(stamps.contains(&body), header.kind == MessageType::Sent);
        messages.push((header.kind, header.channel, bytes[body..at].to_vec()));
    }
    messages
}

fn kinds(messages: &[(MessageType, u16, Vec<u8>)]) -> Vec<MessageType> {
    messages.iter().map(|message| message.0).collect()
}

/// A capture of three data frames for a session, not yet opened.
fn captured(state: &mut State, session: &str) {
    state.begin(&SessionId::new(session).unwrap(), BOOT).unwrap();
    let capture = &mut state.current().unwrap().capture;
    let declaration =
        Declaration::from_json(br#"{"name":"s","fields":[{"name":"v","type":"f64"}]}"#).unwrap();
    let stream = capture.declare(&declaration, Timing::Stamped, 0).unwrap();
    for i in 0..3 {
        capture
            .push(stream, i, &[Value::F64(0.5)], Instant::now())
            .unwrap();
        capture.flush(stream).unwrap();
    }
}

fn opened(session: &str, data: u64, live: u64) -> Opened {
    let next = Acked { data, live };
    Opened {
        session: SessionId::new(session).unwrap(),
        next,
        holes: Holes::default(),
        recording: true,
    }
}

#[test]
fn nothing_before_the_welcome_then_open_then_live_before_data() {
    use MessageType::{Frame, Heartbeat, Open, Sent};
    let (mut state, now) = (state(), Instant::now());
    captured(&mut state, "walk");
    assert!(compose(&mut Conversation::new(), &mut state, now).is_empty());
    let mut conversation = welcomed(&mut state, 1 << 20);
    assert_eq!(
        kinds(&compose(&mut conversation, &mut state, now)),
        [Heartbeat, Open]
    );
    assert!(compose(&mut conversation, &mut state, now).is_empty());
    say(
        &mut conversation,
        &mut state,
        incoming(MessageType::Opened, 1, &opened("walk", 0, 0)),
    )
    .unwrap();
    let messages = compose(&mut conversation, &mut state, now);
    assert_eq!(kinds(&messages), [Sent, Frame, Sent, Frame, Frame, Frame]);
    let sequences = |at: usize| super::Sent::parse(&messages[at].2).unwrap().sequences;
    assert_eq!((sequences(0), sequences(2)), ((1, 0), (0, 2)));
    assert!(compose(&mut conversation, &mut state, now).is_empty());
}

#[test]
fn credit_holds_frames_back_and_acks_move_it() {
    let (mut state, now) = (state(), Instant::now());
    captured(&mut state, "walk");
    let live_bytes = u64::from(
        state
            .current()
            .unwrap()
            .capture
            .buffer
            .next(Lane::Live)
            .unwrap()
            .header
            .length,
    );
    // A data frame has 64 bytes: header, one time, one value.
    let mut conversation = welcomed(&mut state, live_bytes + 70);
    compose(&mut conversation, &mut state, now);
    say(
        &mut conversation,
        &mut state,
        incoming(MessageType::Opened, 1, &opened("walk", 0, 0)),
    )
    .unwrap();
    assert_eq!(compose(&mut conversation, &mut state, now).len(), 4);
    assert!(compose(&mut conversation, &mut state, now).is_empty());
    let ack = |data: u64, credit: u64| Ack {
        durable: [data, 1],
        safe: [0; 2],
        credit,
        hub_epoch: HubEpoch(1),
        hub_send_ns: 0,
        tag: [0; 8],
    };
    let message = |ack: Ack| Incoming {
        kind: MessageType::Ack,
        channel: 1,
        body: ack.to_bytes(),
        dev_recv_ns: 9,
    };
    let effect = say(
        &mut conversation,
        &mut state,
        message(ack(1, live_bytes + 70 + 64)),
    )
    .unwrap();
    let Some(Effect::Acknowledged {
        frames,
        dev_recv_ns: 9,
        ..
    }) = effect
    else {
        panic!("{effect:?}")
    };
    assert_eq!(frames.len(), 2);
    assert_eq!(compose(&mut conversation, &mut state, now).len(), 2);
    let beyond = say(&mut conversation, &mut state, message(ack(4, 0))).unwrap_err();
    assert_eq!(beyond.code, RefusalCode::Malformed);
}

#[test]
fn a_backlog_and_the_present_take_turns() {
    let (mut state, now) = (state(), Instant::now());
    captured(&mut state, "before");
    state.current().unwrap().capture.end(0).unwrap();
    captured(&mut state, "walk");
    let mut conversation = welcomed(&mut state, 1 << 20);
    let opens: Vec<String> = compose(&mut conversation, &mut state, now)
        .into_iter()
        .filter(|message| message.0 == MessageType::Open)
        .map(|message| {
            parse_json::<Open>(message.0, &message.2)
                .unwrap()
                .session
                .to_string()
        })
        .collect();
    assert_eq!(opens, ["walk", "before"], "the present first");
    for (channel, session) in [(1, "walk"), (2, "before")] {
        say(
            &mut conversation,
            &mut state,
            incoming(MessageType::Opened, channel, &opened(session, 0, 0)),
        )
        .unwrap();
    }
    let data_of = |messages: &[(MessageType, u16, Vec<u8>)]| {
        let is_data = |body: &[u8]| marey_format::frame::Header::parse(body).unwrap().lane == Lane::Data;
        let found = messages
            .iter()
            .find(|it| it.0 == MessageType::Frame && is_data(&it.2));
        found.map(|message| message.1)
    };
    let first = data_of(&compose(&mut conversation, &mut state, now));
    let second = data_of(&compose(&mut conversation, &mut state, now));
    assert_eq!((first, second), (Some(1), Some(2)));
}

#[test]
fn an_open_that_is_refused_for_now_is_tried_again_and_one_for_good_is_not() {
    let (mut state, now) = (state(), Instant::now());
    captured(&mut state, "walk");
    let mut conversation = welcomed(&mut state, 1 << 20);
    compose(&mut conversation, &mut state, now);
    let refuse = |code| incoming(MessageType::Refused, 1, &Refusal::new(code, "no"));
    say(&mut conversation, &mut state, refuse(RefusalCode::NotStarted)).unwrap();
    assert!(compose(&mut conversation, &mut state, now).is_empty());
    let later = now + Duration::from_secs(2);
    assert_eq!(
        kinds(&compose(&mut conversation, &mut state, later)),
        [MessageType::Open]
    );
    say(&mut conversation, &mut state, refuse(RefusalCode::SessionClosed)).unwrap();
    let messages = compose(&mut conversation, &mut state, later + Duration::from_secs(30));
    assert_eq!(kinds(&messages), [MessageType::Heartbeat]);
    let status = state.status();
    assert!(
        status.session.unwrap().unacknowledged_frames == 4 && status.refusals.len() == 2,
        "all is kept"
    );
}

#[test]
fn a_hub_that_knows_more_than_was_counted_gets_a_new_epoch() {
    let (mut state, now) = (state(), Instant::now());
    captured(&mut state, "walk");
    let before = state.current().unwrap().capture.epoch();
    let mut conversation = welcomed(&mut state, 1 << 20);
    compose(&mut conversation, &mut state, now);
    say(
        &mut conversation,
        &mut state,
        incoming(MessageType::Opened, 1, &opened("walk", 9, 0)),
    )
    .unwrap();
    let after = state.current().unwrap().capture.epoch();
    assert_ne!(before, after);
    let messages = compose(&mut conversation, &mut state, now);
    assert_eq!((messages[0].0, messages[0].1), (MessageType::Open, 2));
    assert_eq!(
        parse_json::<Open>(MessageType::Open, &messages[0].2)
            .unwrap()
            .epoch,
        after
    );
}

#[test]
fn an_epoch_is_opened_anew_when_the_hub_waits_for_a_frame_that_had_to_go() {
    use MessageType::{Frame, Heartbeat, Open, Sent};
    // Room for three data frames of 64 bytes.
    let options = BufferOptions {
        bytes_max: 3 * 64,
        when_full: WhenFull::DropOldest,
        ..BufferOptions::default()
    };
    let mut state = State::open(DeviceId::new("belt").unwrap(), options, FrameOptions::default()).unwrap();
    let now = Instant::now();
    captured(&mut state, "walk");
    let mut conversation = welcomed(&mut state, 1 << 20);
    compose(&mut conversation, &mut state, now);
    let open = |channel| incoming(MessageType::Opened, channel, &opened("walk", 0, 1));
    say(&mut conversation, &mut state, open(1)).unwrap();
    assert_eq!(
        kinds(&compose(&mut conversation, &mut state, now)),
        [Sent, Frame, Frame, Frame]
    );
    let mut refusal = Refusal::new(RefusalCode::DiskFloor, "no room");
    refusal.frame = Some(marey_format::registry::FrameName { lane: 0, sequence: 0 });
    say(
        &mut conversation,
        &mut state,
        incoming(MessageType::Refused, 1, &refusal),
    )
    .unwrap();
    // Meanwhile the buffer overflows, and the frame that the hub waits for is gone.
    let capture = &mut state.current().unwrap().capture;
    capture.push(1, 9, &[Value::F64(0.5)], now).unwrap();
    capture.flush(1).unwrap();
    let later = now + Duration::from_secs(2);
    let messages = compose(&mut conversation, &mut state, later);
    assert_eq!((kinds(&messages), messages[0].1), (vec![Open], 2));
    say(&mut conversation, &mut state, open(2)).unwrap();
    let mut messages = compose(&mut conversation, &mut state, later + Duration::from_secs(2));
    messages.retain(|message| message.0 != Heartbeat);
    assert_eq!(kinds(&messages), [Sent, Frame, Frame, Frame]);
    assert!(messages.iter().all(|message| message.1 == 2));
    let first = marey_format::frame::Header::parse(&messages[1].2).unwrap();
    assert_eq!(first.sequence, 1, "what is gone becomes a gap");
}
