//! The news of threads, and what they do to the state.

use instructblip::error::Bytes;

use super::actions::Resumed;
use super::{App, Dialog, ModelState, Then};
use crate::captions::files::Saved;
use crate::tasks::{Done, ToSave, Wanted};
use crate::work::pull::News;
use crate::work::{Command, Ending, Event, Kept};

/// Events that a frame takes at most: what comes faster waits, and the window stays alive.
const A_FRAME: usize = 256;

const NO_DIALOG: &str = "no dialog came: that needs xdg-desktop-portal with a backend, or zenity; install one of them, or \
     drop pictures and folders on the window";

impl App {
    /// Takes what threads told since the last frame.
    pub(super) fn hear(&mut self) {
        for _ in 0..A_FRAME {
            let Some(event) = self.work.next() else { break };
            self.hear_work(event);
        }
        while let Some(done) = self.tasks.next() {
            self.hear_task(done);
        }
    }

    fn hear_work(&mut self, event: Event) {
        match event {
            Event::Doing(what, how_far) => self.doing = Some((what, how_far)),
            Event::Idle => self.doing = None,
            Event::Ready(facts) => {
                self.model = ModelState::Ready(facts);
                self.go_on_if_ready();
            }
            Event::NoModel(why) => {
                self.notice(why.clone());
                self.model = ModelState::None(why);
                self.seeing.is_waiting = false;
                self.ranking.is_waiting = false;
            }
            Event::Piece(id, piece) => {
                if let Some(said) = self.asking.said.first_mut().filter(|_| id == self.asking.id) {
                    said.answer.push_str(&piece);
                }
            }
            Event::Answered(id, answered) => self.take_answer(id, answered),
            Event::Ranked(ranked) => {
                self.ranking.is_waiting = false;
                self.ranking.ranked = Some(ranked);
            }
            Event::Looked(looked) => {
                self.seeing.is_waiting = false;
                self.seeing.look += 1;
                match looked {
                    Ok(seen) => (self.seeing.seen, self.seeing.problem) = (Some(seen), None),
                    Err(problem) => self.seeing.problem = Some(problem),
                }
            }
            Event::Captioned(id, picture, caption) => {
                if let Some(running) = self.running.as_mut().filter(|running| running.id == id) {
                    running.done += 1;
                    running.failed += usize::from(caption.is_err());
                }
                match caption {
                    Ok((caption, kept)) => self.take_caption(id, &picture, caption, kept),
                    Err(problem) => self.notice(problem),
                }
            }
            Event::RunEnded(id, ending) => self.end_run(id, ending),
            Event::Tested(verdict) => {
                self.gpus.is_busy = false;
                self.gpus.verdict = Some(verdict);
            }
            Event::Tuned(found) => {
                self.gpus.is_busy = false;
                self.gpus.tuned = Some(found.map(|(tuning, lines)| {
                    if let Some(key) = self.gpus.survey.as_ref().and_then(|survey| survey.key.clone()) {
                        self.settings.tunings.insert(key, tuning);
                    }
                    lines
                }));
            }
        }
    }

    fn take_answer(&mut self, id: u64, answered: Result<crate::work::Answered, String>) {
        let Some(said) = self.asking.said.first_mut().filter(|_| id == self.asking.id) else { return };
        said.is_open = false;
        match answered {
            Ok(answered) => {
                said.answer = answered.text;
                let stopped = if answered.stopped { ", stopped" } else { "" };
                let words = if answered.tokens == 1 { "token" } else { "tokens" };
                said.note = format!("{} {words} in {:.1} s{stopped}", answered.tokens, answered.ms / 1e3);
            }
            Err(problem) => said.note = problem,
        }
    }

    fn take_caption(&mut self, job: u64, picture: &std::path::Path, caption: String, kept: Kept) {
        let index = self.document.find(picture);
        let disk = index.and_then(|index| self.document.entries()[index].disk.clone());
        let disk = match kept {
            Kept::Saved(disk) => disk,
            Kept::Foreign(text) => {
                if let Some(index) = index {
                    self.ask_about_foreign(vec![(index, text)]);
                }
                disk
            }
            Kept::Failed(problem) => {
                self.notice(problem);
                disk
            }
        };
        self.document.take_from_job(job, picture, caption, disk);
    }

    fn end_run(&mut self, id: u64, ending: Ending) {
        let Some(running) = self.running.take_if(|running| running.id == id) else { return };
        let (made, failed) = (running.done - running.failed, running.failed);
        let took = running.begun.elapsed().as_secs_f64();
        let without = if failed > 0 { format!(", {failed} without one, by errors told above") } else { String::new() };
        let has_failed = matches!(ending, Ending::Failed(_));
        self.notice(match ending {
            Ending::Complete => format!("{made} captions in {took:.1} s{without}"),
            Ending::Stopped => format!("stopped after {made} of {} captions{without}", running.total),
            Ending::Failed(why) => format!("captioning ended after {made} of {}: {why}", running.total),
        });
        // A job that failed can go on.
        if let (true, Some(folder)) = (has_failed, self.folder.clone()) {
            self.tasks.interrupted(folder);
        }
    }

    fn hear_task(&mut self, done: Done) {
        match done {
            Done::Opened(document, problems) => self.take_document(*document, problems),
            Done::NoDialog => self.notice(NO_DIALOG),
            Done::Picked(wanted, files) => self.take_files(wanted, files),
            Done::Saved(saved) => self.take_saved(saved),
            Done::Exported(Ok(path)) => self.notice(format!("exported to {}", path.display())),
            Done::Exported(Err(problem)) | Done::Kept(Err(problem)) | Done::Removed(Err(problem)) => {
                self.notice(problem);
            }
            Done::Kept(Ok(())) => {}
            Done::Removed(Ok(bytes)) => {
                self.notice(format!("removed, {} freed", Bytes(bytes)));
                self.tasks.cache();
            }
            Done::Survey(survey) => {
                self.gpus.is_looking = false;
                self.gpus.survey = Some(survey);
            }
            Done::Cache(cache) => self.models.cache = Some(cache),
            Done::Ways(source, ways) => {
                if self.models.looked_at.as_ref() == Some(&source) {
                    self.models.ways = Some(ways);
                }
            }
            Done::Pull(news) => self.take_news(news),
            Done::Interrupted(job) => self.interrupted = job,
        }
    }

    fn take_document(&mut self, document: crate::captions::Document, problems: Vec<String>) {
        let count = document.entries().len();
        self.is_opening = false;
        self.settings.sources.clone_from(&document.sources);
        // Numbers of another document mean other pictures.
        (self.document, self.selection, self.shown.0, self.unsaved.0) = (document, Default::default(), 0, 0);
        if count > 0 {
            self.selection.choose(0);
        } else {
            self.notice("there are no pictures in it");
        }
        problems.into_iter().for_each(|problem| self.notice(problem));
        self.go_on_if_ready();
    }

    fn take_files(&mut self, wanted: Wanted, files: Vec<std::path::PathBuf>) {
        let Some(first) = files.first().cloned() else { return };
        match wanted {
            Wanted::Pictures | Wanted::Folder => self.open(files),
            Wanted::Model => self.look_at_model(crate::work::Source::Folder(first)),
            Wanted::Export(format) => {
                let entries = self.document.entries().iter().filter(|entry| !entry.caption.is_empty());
                let rows = entries.map(|entry| (entry.name.clone(), entry.caption.clone()));
                self.tasks.export(first, format, rows.collect());
            }
        }
    }

    fn take_saved(&mut self, saved: Vec<(ToSave, Result<Saved, String>)>) {
        let (mut foreign, mut count) = (Vec::new(), 0);
        for (to_save, saved) in saved {
            let Some(index) = self.document.find(&to_save.picture) else { continue };
            match saved {
                Ok(Saved::Written(disk)) => {
                    self.document.note_disk(index, disk);
                    count += 1;
                }
                Ok(Saved::Foreign(text)) => foreign.push((index, text)),
                Err(problem) => self.notice(problem),
            }
        }
        if count > 0 {
            self.notice(if count == 1 { "1 caption saved".into() } else { format!("{count} captions saved") });
        }
        if !foreign.is_empty() {
            self.ask_about_foreign(foreign);
        } else if let Some(Dialog::Unsaved(then)) = self.dialog.take_if(|_| self.document.unsaved().is_empty()) {
            self.do_then(then);
        }
    }

    fn ask_about_foreign(&mut self, mut foreign: Vec<(usize, String)>) {
        match &mut self.dialog {
            Some(Dialog::Foreign(others)) => others.append(&mut foreign),
            _ => self.dialog = Some(Dialog::Foreign(foreign)),
        }
    }

    /// Does what waited for captions to be saved.
    pub fn do_then(&mut self, then: Then) {
        match then {
            Then::Close => self.closes = true,
            Then::Open(sources) => self.open_now(sources),
        }
    }

    fn take_news(&mut self, news: News) {
        match &news {
            News::Plan(plan) => {
                self.models.plan = Some((plan.clone(), plan.present_bytes < plan.bytes));
            }
            News::Done => {
                let name = self.models.pull.take().map_or(String::new(), |pull| pull.repo.clone());
                self.models.plan = None;
                self.notice(format!("{name} is there"));
                self.tasks.cache();
                self.look_at_model(crate::work::Source::Cached(name));
            }
            News::Failed(why) => {
                self.end_pull();
                self.notice(why.clone());
            }
            _ => {}
        }
        self.models.news = Some(news);
    }

    /// Goes on with an interrupted job once its pictures are open and there is a model.
    fn go_on_if_ready(&mut self) {
        if self.is_opening || self.facts().is_none() || self.running.is_some() {
            return;
        }
        let Some(Resumed { journal, pictures, options }) = self.resuming.take() else { return };
        let indices: Vec<usize> = pictures.iter().filter_map(|picture| self.document.find(picture)).collect();
        match self.items(&indices, &options) {
            Ok(items) => self.begin_run(items, &options, journal),
            Err(problem) => self.notice(problem),
        }
    }

    /// Gives the model's thread a command.
    pub(super) fn command(&self, command: Command) {
        self.work.send(command);
    }
}
