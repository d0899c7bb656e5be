//! Rows over pipes: lines in, a line out for each, in the order in which answers come.

use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};

use serde_json::Value;

use super::line::Line;
use super::reply::{LOOK_UP, reply};
use super::row::{Defaults, Id, Row};
use super::source::{Lines, place};
use super::{Answered, Answerer, Failure};

/// Longest line that is looked at for a ping.
const PING: usize = 256;

/// A service for rows.
pub struct Service<'a> {
    /// The parts that rows do not say.
    pub defaults: &'a Defaults,
    /// The folder that paths begin at.
    pub folder: &'a Path,
    /// The model's fingerprint.
    pub model: &'a str,
    /// Rows that are read before the first of them is answered.
    pub in_flight: usize,
    /// Ends the service once it is set: what was read is answered.
    pub stop: &'a AtomicBool,
}

/// News for the one that serves.
enum Event {
    /// A line, none if it is too long, and its name.
    Line(Option<Vec<u8>>, String),
    Answered(Id, Answered),
    End,
    Broken(io::Error),
}

/// Answers the rows of `input` on `output`, a line each, written out at once. Bad rows get a line that says so;
/// `{"ping": 1}` gets `{"pong": 1}`. Ends with the input; the failure that ended it before is given back.
///
/// # Errors
/// The error of an output that cannot be written to.
pub fn serve(
    service: &Service<'_>,
    answerer: &dyn Answerer,
    input: impl Read + Send + 'static,
    output: &mut dyn Write,
) -> io::Result<Option<Failure>> {
    let (to, events) = mpsc::channel();
    // As much as has been read and not been answered: reading waits for room in it.
    let (taken, room) = mpsc::sync_channel(service.in_flight.max(1));
    let reader = to.clone();
    std::thread::spawn(move || read(input, &reader, &taken));
    let (mut in_flight, mut stopped, mut ended) = (0_usize, None, false);
    while !ended || in_flight > 0 {
        answerer.tend();
        let event = match events.recv_timeout(LOOK_UP) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                ended |= service.stop.load(Ordering::Relaxed);
                continue;
            }
        };
        ended |= service.stop.load(Ordering::Relaxed);
        match event {
            Event::Line(..) if ended => give(&room),
            Event::Line(line, place) => match line.as_deref().and_then(pong) {
                Some(pong) => {
                    write(output, &pong)?;
                    give(&room);
                }
                None => {
                    in_flight += 1;
                    let row = match &line {
                        Some(line) => Row::parse(line, &place, service.folder, service.defaults),
                        None => Row::too_long(&place),
                    };
                    ask(answerer, row, &to);
                }
            },
            Event::Answered(id, answered) => {
                in_flight -= 1;
                give(&room);
                if let Some(failure) = answered.as_ref().err().filter(|failure| failure.stop) {
                    stopped.get_or_insert(failure.clone());
                    ended = true;
                }
                write(output, &Line::new(id, answered, service.model).to_text())?;
            }
            Event::End => ended = true,
            Event::Broken(error) => {
                stopped.get_or_insert(Failure::stopping("io", format!("standard input: {error}")));
                ended = true;
            }
        }
    }
    Ok(stopped)
}

/// Makes room for a line in the place of one that was read.
fn give(room: &Receiver<()>) {
    let _ = room.try_recv();
}

/// Reads lines as long as there is room for them.
fn read(input: impl Read, to: &Sender<Event>, taken: &SyncSender<()>) {
    let mut lines = Lines::new(BufReader::with_capacity(1 << 16, input));
    let mut has_room = false;
    loop {
        // Nobody makes room any more where the service has ended.
        if !has_room && taken.send(()).is_err() {
            return;
        }
        has_room = false;
        let (number, line) = match lines.next() {
            Ok(Some((number, line))) => (number, line.map(<[u8]>::to_vec)),
            Ok(None) => break,
            Err(error) => return drop(to.send(Event::Broken(error))),
        };
        match line {
            Ok(line) if line.trim_ascii().is_empty() => has_room = true,
            line => drop(to.send(Event::Line(line.ok(), place(number)))),
        }
    }
    let _ = to.send(Event::End);
}

fn ask(answerer: &dyn Answerer, row: Row, to: &Sender<Event>) {
    let Row { id, asked, .. } = row;
    let question = asked.and_then(|asked| asked.into_question(&id));
    let to = to.clone();
    let reply = reply(move |answered| drop(to.send(Event::Answered(id, answered))));
    match question {
        Ok(question) => answerer.answer(question, reply),
        Err(failure) => reply(Err(failure)),
    }
}

/// The answer to a ping, if the line is one.
fn pong(line: &[u8]) -> Option<String> {
    if line.len() > PING {
        return None;
    }
    match serde_json::from_slice(line) {
        Ok(Value::Object(fields)) if fields.len() == 1 => {
            Some(format!("{}\n", serde_json::json!({"pong": fields.get("ping")?})))
        }
        _ => None,
    }
}

/// Writes a line, and everything of it at once.
fn write(output: &mut dyn Write, line: &str) -> io::Result<()> {
    output.write_all(line.as_bytes())?;
    output.flush()
}
