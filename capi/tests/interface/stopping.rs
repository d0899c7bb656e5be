//! Stopping work from callbacks and from other threads.

use std::ffi::{c_char, c_int, c_void};
use std::time::{Duration, Instant};

use instructblip_c::*;

use crate::support::{ask, c, collect, embedded, file, nothing_asked, open, sample};

/// Calls that a callback has had, and the one at which it stops.
struct Calls {
    so_far: u32,
    stop_at: u32,
    thread: std::thread::ThreadId,
}

impl Calls {
    fn until(stop_at: u32) -> Calls {
        Calls { so_far: 0, stop_at, thread: std::thread::current().id() }
    }

    fn hear(&mut self) -> c_int {
        assert_eq!(self.thread, std::thread::current().id());
        self.so_far += 1;
        c_int::from(self.so_far == self.stop_at)
    }
}

unsafe extern "C" fn hear_text(_: *const c_char, _: usize, user: *mut c_void) -> c_int {
    // SAFETY: `user` is a test's counter, and nobody else has it while the test asks.
    unsafe { &mut *user.cast::<Calls>() }.hear()
}

unsafe extern "C" fn hear_progress(_: Stage, done: u64, total: u64, user: *mut c_void) -> c_int {
    assert!(done <= total);
    // SAFETY: as above.
    unsafe { &mut *user.cast::<Calls>() }.hear()
}

#[test]
fn callbacks_stop_what_they_hear_of() {
    let mut all = Calls::until(0);
    let listening = |calls: &mut Calls| Load {
        on_progress: Some(hear_progress),
        user: std::ptr::from_mut(calls).cast(),
        ..embedded()
    };
    let opened = open(&listening(&mut all)).expect("a model");
    let heard = all.so_far;
    assert!(heard > 20, "{heard} calls");
    let (bytes, prompt) = (std::fs::read(sample("10.png")).expect("a picture"), c("Can you count the things?"));
    let picture = file(&bytes);
    let question =
        Question { pictures: &raw const picture, picture_count: 1, prompt: prompt.as_ptr(), ..nothing_asked() };
    // SAFETY: all pointers are valid or NULL; nobody else has the model.
    unsafe {
        assert_eq!(instructblip_ask(opened, &raw const question, std::ptr::null_mut()), Status::Ok);
        instructblip_close(opened);
    }
    assert_eq!(all.so_far, heard, "it was called after opening");
    for stop_at in [1, 2, 10, 20] {
        let mut calls = Calls::until(stop_at);
        let (status, _) = open(&listening(&mut calls)).expect_err("a stop");
        assert_eq!((status, calls.so_far), (Status::Cancelled, stop_at));
    }
    let mut calls = Calls::until(3);
    let params = c("{\"min_new_tokens\": 60, \"max_new_tokens\": 60}");
    let question =
        Question { params: params.as_ptr(), on_text: Some(hear_text), user: (&raw mut calls).cast(), ..question };
    assert_eq!(ask(&question).expect_err("a stop").0, Status::Cancelled);
    assert_eq!(calls.so_far, 3);
}

/// A callback that asks the question that it is given.
unsafe extern "C" fn ask_again(_: *const c_char, _: usize, user: *mut c_void) -> c_int {
    // SAFETY: `user` is a test's question, and lives as long as its call.
    let answer = ask(unsafe { &*user.cast::<Question>() }).expect("an answer");
    assert_eq!(answer["text"], "2");
    0
}

#[test]
fn callbacks_may_ask() {
    let (bytes, prompt) = (std::fs::read(sample("10.png")).expect("a picture"), c("Can you count the things?"));
    let picture = file(&bytes);
    let inner = Question { pictures: &raw const picture, picture_count: 1, prompt: prompt.as_ptr(), ..nothing_asked() };
    let user = (&raw const inner).cast_mut().cast();
    assert_eq!(ask(&Question { on_text: Some(ask_again), user, ..inner }).expect("an answer")["text"], "2");
}

/// A pointer for another thread.
struct Sent<T>(*const T);
// SAFETY: what it points to may be used from any thread.
unsafe impl<T> Send for Sent<T> {}

impl<T> Sent<T> {
    fn get(&self) -> *const T {
        self.0
    }
}

/// Asks 200 times for something long, which another thread cancels at a random moment: calls end soon, and answers after
/// that are right.
#[test]
fn questions_are_cancelled_at_any_moment() {
    let (bytes, prompt) = (std::fs::read(sample("10.png")).expect("a picture"), c("Can you count the things?"));
    let (picture, long) = (file(&bytes), c("{\"min_new_tokens\": 100, \"max_new_tokens\": 100}"));
    let question =
        || Question { pictures: &raw const picture, picture_count: 1, prompt: prompt.as_ptr(), ..nothing_asked() };
    assert_eq!(ask(&question()).expect("an answer")["text"], "2");
    let (mut latencies, mut seed) = (Vec::new(), 0x2545_f491_4f6c_dd1d_u64);
    for i in 0..200 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let moment = Duration::from_micros((seed >> 33) % 200_000);
        let canceller = instructblip_canceller_new();
        let sent = Sent(canceller);
        let thread = std::thread::spawn(move || {
            std::thread::sleep(moment);
            let at = Instant::now();
            // SAFETY: it is freed after this thread is joined.
            unsafe { instructblip_cancel(sent.get()) };
            at
        });
        let mut pieces = String::new();
        let user = (&raw mut pieces).cast();
        let asked = Question { params: long.as_ptr(), canceller, on_text: Some(collect), user, ..question() };
        let result = ask(&asked);
        let ended = Instant::now();
        let at = thread.join().expect("no panic");
        match result {
            Err((Status::Cancelled, _)) => latencies.push(ended.duration_since(at)),
            // It was done before.
            Ok(reply) => assert!(reply["token_ids"].as_array().is_some_and(|ids| ids.len() == 100) && ended < at),
            Err(other) => panic!("question {i}: {other:?}"),
        }
        // What is cancelled stays so.
        if i % 20 == 0 {
            assert_eq!(ask(&Question { canceller, ..question() }).expect_err("a stop").0, Status::Cancelled);
            assert_eq!(ask(&question()).expect("an answer")["text"], "2");
        }
        // SAFETY: no call has it any more.
        unsafe { instructblip_canceller_free(canceller) };
    }
    assert_eq!(ask(&question()).expect("an answer")["text"], "2");
    latencies.sort();
    let of = |share: usize| latencies[(latencies.len() - 1) * share / 100];
    println!(
        "cancelled {} of 200: {:?} in the middle, {:?} of 95 %, {:?} at most",
        latencies.len(),
        of(50),
        of(95),
        of(100)
    );
    assert!(latencies.len() > 100 && of(100) < Duration::from_secs(5), "too few, or too late");
}
