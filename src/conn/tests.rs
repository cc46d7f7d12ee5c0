//! Tests of a connection by itself: its states, and its changes.

use crate::http::StreamKind;
use proptest::prelude::*;

use super::*;

const NOW: Time = Time::from_nanos(1_000_000_000);

fn open() -> Conn {
    let mut conn = Conn::new(NOW, false);
    conn.opened(Endpoint::Chat, false, None, Time::NEVER);
    conn
}

fn options() -> Options {
    Options::default()
}

/// Everything of its own goes out; returns that, and what is to be done then.
fn flush(conn: &mut Conn) -> (Vec<u8>, Change) {
    let mut out = Vec::new();
    while !conn.outbox.is_empty() {
        let unsent = conn.outbox.unsent().to_vec();
        conn.outbox.wrote(unsent.len());
        out.extend(unsent);
    }
    (out, conn.flushed())
}

#[test]
fn a_failed_websocket_sends_a_close_frame_and_waits_for_the_peer() {
    let mut conn = open();
    let change = conn.fail(CloseCode::Size, "too big", CloseReason::MessageTooBig, &options());
    assert!(change.leaves && change.flush && change.timer.is_some());
    let (out, change) = flush(&mut conn);
    assert_eq!(&out[..4], &[0x88, 9, 0x03, 0xF1]);
    assert_eq!(change.close, Some(CloseMethod::Shutdown));
    assert_eq!(conn.ended(NOW, &options()).close, Some(CloseMethod::Now));
    assert_eq!(conn.reason(), CloseReason::MessageTooBig);
}

#[test]
fn input_of_a_lingering_connection_is_bounded() {
    let mut conn = Conn::new(NOW, false);
    let _ = conn.timed_out(NOW, None, &options());
    let (mut sent, piece) = (0, 10_000);
    loop {
        let change = conn.discarded(piece);
        sent += piece;
        if sent == 100_000 {
            assert_eq!(flush(&mut conn).1.close, Some(CloseMethod::Shutdown));
        }
        if let Some(how) = change.close {
            assert_eq!(how, CloseMethod::Reset);
            break;
        }
    }
    assert!((LINGER_BYTES_MAX as usize..LINGER_BYTES_MAX as usize + 2 * piece).contains(&sent), "{sent}");
}

#[test]
fn an_end_that_comes_while_input_waits_is_acted_on_after_it() {
    let mut conn = open();
    conn.keep(b"a frame", true);
    let change = conn.ended(NOW, &options());
    assert_eq!((change.close, change.timer), (None, Some(options().close_timeout)), "but not for ever");
    let kept = conn.take_kept().expect("it waits");
    assert_eq!(kept.bytes, b"a frame");
    assert_eq!(conn.end_of_input(&options()).close, Some(CloseMethod::Now));
    let mut conn = open();
    conn.keep(b"a frame", true);
    let _ = conn.ended(NOW, &options());
    assert_eq!(conn.timed_out(NOW, None, &options()), None, "the timer was its session's");
    let deadline = NOW + options().close_timeout;
    let change = conn.timed_out(deadline, None, &options());
    assert_eq!(change.and_then(|change| change.close), Some(CloseMethod::Now));
}

#[test]
fn many_pings_cost_one_pong_once_much_waits() {
    let mut conn = open();
    for round in 0..100_000_u32 {
        conn.pong(&round.to_be_bytes());
    }
    assert!(conn.outbox.len() <= PONG_EACH_BYTES + 6, "{} bytes wait", conn.outbox.len());
    let (out, _) = flush(&mut conn);
    assert!(out.ends_with(&99_999_u32.to_be_bytes()), "the newest is answered");
}

#[test]
fn queued_input_is_kept_once_without_its_used_prefix() {
    let mut conn = open();
    conn.keep(&[1; 1000], true);
    for round in 0..1000_usize {
        let mut kept = conn.take_kept().expect("it is kept");
        kept.advance(900);
        conn.put_back(kept);
        conn.keep(&[2; 900], true);
        assert!(conn.input_bytes() <= 4096, "round {round}: {} bytes", conn.input_bytes());
    }
}

fn stream((kind, chunked): (StreamKind, bool)) -> Conn {
    let mut conn = Conn::new(NOW, false);
    conn.wait();
    conn.begin_stream(Stream { kind, chunked, messages: false }, NOW);
    conn
}

/// What its session sends are messages, which the stream frames; its end is one of them.
#[test]
fn a_stream_of_messages_frames_them() {
    for (kind, chunked, expected) in [
        (StreamKind::Lines, true, &b"3\r\n{}\n\r\n4\r\nbye\n\r\n0\r\n\r\n"[..]),
        (StreamKind::Lines, false, b"{}\nbye\n"),
        (StreamKind::Events, true, b"a\r\ndata: {}\n\n\r\nb\r\ndata: bye\n\n\r\n0\r\n\r\n"),
        (StreamKind::Events, false, b"data: {}\n\ndata: bye\n\n"),
    ] {
        let mut conn = Conn::new(NOW, false);
        conn.wait();
        conn.begin_stream(Stream { kind, chunked, messages: true }, Time::NEVER);
        conn.send_payload(b"{}");
        let _ = conn.end_stream(b"bye", CloseReason::SlowConsumer, &options());
        assert_eq!(flush(&mut conn).0, expected);
    }
}

#[test]
fn a_stream_ends_with_its_last_chunk() {
    for (parameters, expected) in [
        ((StreamKind::Lines, true), &b"3\r\n{}\n\r\n3\r\nbye\r\n0\r\n\r\n"[..]),
        ((StreamKind::Lines, false), b"{}\nbye"),
        ((StreamKind::Events, true), b"3\r\n:\n\n\r\n3\r\nbye\r\n0\r\n\r\n"),
        ((StreamKind::Events, false), b":\n\nbye"),
    ] {
        let mut conn = stream(parameters);
        assert!(conn.tick(NOW, Duration::from_secs(20), &options()).flush);
        assert_eq!(conn.due(), NOW + Duration::from_secs(20));
        let change = conn.end_stream(b"bye", CloseReason::SlowConsumer, &options());
        assert!(change.leaves && change.flush);
        let (out, change) = flush(&mut conn);
        assert_eq!((&out[..], change.close), (expected, Some(CloseMethod::Shutdown)));
    }
}

#[test]
fn a_stream_whose_socket_stays_full_ends() {
    let mut conn = stream((StreamKind::Lines, true));
    let mut now = NOW;
    for _ in 0..3 {
        assert!(conn.tick(now, Duration::from_secs(20), &options()).flush);
        let _ = flush(&mut conn);
        now = now + Duration::from_secs(20);
    }
    let _ = conn.tick(now, Duration::from_secs(20), &options());
    conn.blocked = true;
    let change = conn.tick(now + Duration::from_secs(20), Duration::from_secs(20), &options());
    assert!(change.leaves);
    assert_eq!(conn.reason(), CloseReason::PingTimeout);
}

#[test]
fn input_on_a_stream_is_bounded() {
    let mut conn = stream((StreamKind::Events, true));
    let mut sent = 0;
    while conn.ignored(10_000).close.is_none() {
        sent += 10_000;
    }
    assert!((LINGER_BYTES_MAX as usize - 10_000..=LINGER_BYTES_MAX as usize).contains(&sent), "{sent}");
}

#[test]
fn a_request_that_waits_ends_with_its_client() {
    let mut conn = Conn::new(NOW, false);
    conn.wait();
    assert_eq!(conn.ended(NOW, &options()).close, Some(CloseMethod::Now));
    // Even if more requests wait behind it.
    let mut conn = Conn::new(NOW, false);
    conn.wait();
    conn.keep(b"GET /", true);
    assert_eq!(conn.ended(NOW, &options()).timer, Some(options().close_timeout));
    let change = conn.timed_out(NOW + options().close_timeout, None, &options());
    assert_eq!(change.and_then(|change| change.close), Some(CloseMethod::Now));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Fail,
    PeerClosed,
    BeginClose,
    Finish,
    Broken,
    Ended,
    EndOfInput,
    Discarded(usize),
    Flush,
    TimedOut,
    Tick,
    Keep,
    Pong,
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    prop_oneof![
        Just(Fail),
        Just(PeerClosed),
        Just(BeginClose),
        Just(Finish),
        Just(Broken),
        Just(Ended),
        Just(EndOfInput),
        (0..200_000_usize).prop_map(Discarded),
        Just(Flush),
        Just(TimedOut),
        Just(Tick),
        Just(Keep),
        Just(Pong),
    ]
}

/// What its shard does, as far as it does it in this state.
fn take(conn: &mut Conn, step: Step, options: &Options) -> Change {
    let reason = CloseReason::Unauthorized;
    match (step, conn.state()) {
        (Step::Fail, State::Head | State::Open | State::Closing) => {
            conn.fail(CloseCode::Protocol, "no", reason, options)
        }
        (Step::PeerClosed, State::Open | State::Closing) => {
            conn.peer_closed(Some(CloseCode::Normal), options)
        }
        (Step::BeginClose, State::Open) => conn.begin_close(CloseCode::Away, "bye", reason, options),
        (Step::Finish, _) => conn.finish(Ending::AtOnce, reason, options),
        (Step::Broken, _) => conn.close(CloseMethod::Now, reason),
        (Step::Ended, _) => conn.ended(NOW, options),
        (Step::EndOfInput, _) => {
            let _ = conn.take_kept();
            conn.end_of_input(options)
        }
        (Step::Discarded(len), _) => conn.discarded(len),
        (Step::Flush, _) => flush(conn).1,
        (Step::TimedOut, _) => conn.timed_out(NOW, None, options).unwrap_or_default(),
        (Step::Tick, State::Open) => conn.tick(NOW, options.ping_interval, options),
        (Step::Keep, State::Head | State::Open) => {
            conn.keep(b"input", true);
            Change::default()
        }
        (Step::Pong, State::Open) => {
            conn.pong(b"pong");
            Change { flush: true, ..Change::default() }
        }
        (Step::Fail | Step::PeerClosed | Step::BeginClose | Step::Tick | Step::Keep | Step::Pong, _) => {
            Change::default()
        }
    }
}

proptest! {
    /// Any events in any order: its socket is closed once, its sending side is shut once and before that, and
    /// when its time is up it is closed.
    #[test]
    fn a_connection_ends_once(upgraded: bool, steps in prop::collection::vec(step(), 1..40)) {
        let options = options();
        let mut conn = if upgraded { open() } else { Conn::new(NOW, false) };
        let (mut shut, mut closed) = (0, 0);
        let mut note = |change: Change, state: State| {
            match change.close {
                Some(CloseMethod::Shutdown) => shut += 1,
                Some(CloseMethod::Now | CloseMethod::Reset) => closed += 1,
                None => {}
            }
            assert!(shut <= 1 && closed <= 1, "{shut} times shut, {closed} times closed");
            assert_eq!(closed == 1, state == State::Closed);
        };
        for step in steps {
            let was = conn.state();
            let change = take(&mut conn, step, &options);
            note(change, conn.state());
            prop_assert!(!was.is_ending() || conn.state().is_ending(), "{was:?} to {:?}", conn.state());
            let silent = conn.state() == State::Closed;
            prop_assert!(!silent || (conn.outbox.is_empty() && !conn.has_kept()), "nothing stays of it");
        }
        // What has begun to end ends by the clock, independently of the peer.
        if conn.state().is_ending() {
            for _ in 0..2 {
                let change = conn.timed_out(NOW, None, &options).unwrap_or_default();
                note(change, conn.state());
            }
            prop_assert_eq!(conn.state(), State::Closed);
        }
    }
}
