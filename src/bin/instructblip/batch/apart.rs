//! This program once more, for rows over which a process ended: it answers them one by one, and may end over them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use instructblip::jobs::{Answered, Apart, Failure, Line, Question};

/// The variable that has `batch` serve its parent instead of doing a job.
pub const SERVE: &str = "INSTRUCTBLIP_SERVE_PARENT";

/// Exit codes by which the program says by itself why it ends.
const SAID: [i32; 7] = [2, 3, 4, 5, 6, 7, 75];

/// A process of the same command line.
#[derive(Default)]
pub struct Process {
    running: Option<Running>,
    asked: u64,
}

struct Running {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Process {
    fn begin() -> std::io::Result<Running> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .envs([(SERVE, "1"), ("INSTRUCTBLIP_QUIET", "1")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(to), Some(from)) => Ok(Running { child, to, from: BufReader::new(from) }),
            _ => Err(std::io::Error::other("it has no pipes")),
        }
    }
}

impl Apart for Process {
    fn ask(&mut self, question: Question) -> Result<Option<Answered>, Failure> {
        let failed = |what: String| Failure::stopping("failed", format!("the process for suspect rows: {what}"));
        self.asked += 1;
        let row = question.to_row(self.asked)?;
        if self.running.is_none() {
            self.running = Some(Process::begin().map_err(|error| failed(error.to_string()))?);
        }
        let Some(Running { to, from, .. }) = &mut self.running else { return Ok(None) };
        let mut answer = String::new();
        // A process that has ended is told by what it says: nothing.
        let _ = to.write_all(row.as_bytes()).and_then(|()| to.flush());
        let read = from.read_line(&mut answer);
        match (read, serde_json::from_str::<Line>(&answer)) {
            (Ok(_), Ok(line)) => return Ok(Some(line.into_answered())),
            (Ok(_), Err(_)) if answer.ends_with('\n') => return Err(failed("it does not answer in lines".into())),
            _ => {}
        }
        let code =
            self.running.take().and_then(|mut running| running.child.wait().ok()).and_then(|status| status.code());
        match code.filter(|code| SAID.contains(code)) {
            Some(code) => {
                Err(Failure::stopping(&format!("exit_{code}"), "the process for suspect rows could not go on"))
            }
            None => Ok(None),
        }
    }

    fn end(&mut self) {
        if let Some(Running { mut child, to, .. }) = self.running.take() {
            drop(to);
            let _ = child.wait();
        }
    }
}
