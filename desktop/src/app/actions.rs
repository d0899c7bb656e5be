//! The actions of buttons and keys.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use eframe::egui;
use instructblip::GenerateOptions;
use instructblip::hub::Hub;

use super::{App, Conversation, Dialog, Found, ModelState, Running, Tab, Then};
use crate::captions::files::caption_of;
use crate::captions::journal::{Job, Journal};
use crate::captions::prompt::{CaptionOptions, Existing};
use crate::captions::tags::TagChange;
use crate::tasks::{Done, ToSave, Wanted};
use crate::work::pull::Pull;
use crate::work::{Command, Item, Run, Source};

/// A job that goes on.
pub(super) struct Resumed {
    pub journal: Journal,
    pub pictures: Vec<PathBuf>,
    pub options: CaptionOptions,
}

impl App {
    /// Opens folders and pictures, unless captions would be lost: then it asks first.
    pub fn open(&mut self, sources: Vec<PathBuf>) {
        match self.unsaved() {
            _ if self.running.is_some() => self.notice("captions are being made; stop that first, or let it end"),
            0 => self.open_now(sources),
            _ => self.dialog = Some(Dialog::Unsaved(Then::Open(sources))),
        }
    }

    /// Opens folders and pictures.
    pub(super) fn open_now(&mut self, sources: Vec<PathBuf>) {
        self.is_opening = true;
        self.tasks.open(sources);
    }

    /// Shows a dialog for files or a folder, where the last ones were.
    pub fn pick(&self, wanted: Wanted) {
        let last = self.settings.sources.first();
        let folder = last.and_then(|path| if path.is_dir() { Some(path.as_path()) } else { path.parent() });
        self.tasks.pick(wanted, folder.map(Into::into));
    }

    /// Opens what was dropped on the window.
    pub(super) fn take_dropped(&mut self, ctx: &egui::Context) {
        let dropped = ctx.input(|input| input.raw.dropped_files.clone());
        let paths: Vec<PathBuf> = dropped.iter().map(|file| file.path().to_path_buf()).collect();
        if !paths.is_empty() {
            self.open(paths);
        }
    }

    /// Puts all captions into their files.
    pub fn save(&mut self) {
        self.document.end_typing();
        let indices = self.document.unsaved();
        self.save_these(&indices, false);
    }

    /// Puts these captions into their files; where `over` is set, also over what somebody else wrote.
    pub fn save_these(&mut self, indices: &[usize], over: bool) {
        let to_save = |&index: &usize| {
            let entry = &self.document.entries()[index];
            ToSave { picture: entry.picture.clone(), caption: entry.caption.clone(), known: entry.disk.clone() }
        };
        let captions: Vec<ToSave> = indices.iter().map(to_save).collect();
        if !captions.is_empty() {
            self.tasks.save(captions, over);
        }
    }

    /// Takes what caption files have instead of what the document has.
    pub fn take_foreign(&mut self, foreign: Vec<(usize, String)>) {
        let captions = foreign.iter().map(|(index, text)| (*index, caption_of(text).to_string()));
        self.document.change("captions of the files", captions.collect::<Vec<_>>());
        foreign.into_iter().for_each(|(index, text)| self.document.note_disk(index, Some(text)));
    }

    /// Gives up what is not saved: every caption becomes that of its file.
    pub fn give_up(&mut self) {
        let of_disk = |index: usize| {
            let disk = self.document.entries()[index].disk.as_deref();
            (index, disk.map(caption_of).unwrap_or_default().to_string())
        };
        let captions: Vec<_> = self.document.unsaved().into_iter().map(of_disk).collect();
        self.document.change("captions given up", captions);
    }

    /// Loads the model of the settings.
    pub fn load_model(&mut self) {
        self.model = ModelState::Loading;
        let key = self.gpus.survey.as_ref().and_then(|survey| survey.key.clone());
        let tuning = match key {
            Some(key) => self.settings.tunings.get(&key).copied(),
            // Adapters were not looked at yet: what there is for one alone is for the one there is, most often.
            None if self.settings.tunings.len() == 1 => self.settings.tunings.values().next().copied(),
            None => None,
        };
        self.command(Command::Load(self.settings.setup.clone(), tuning));
    }

    /// Looks at a model: what it takes of the memory.
    pub fn look_at_model(&mut self, source: Source) {
        self.models.ways = None;
        self.models.looked_at = Some(source.clone());
        self.tasks.ways(self.setup_of(source));
        if self.gpus.survey.is_none() {
            self.look_at_gpus();
        }
    }

    /// Looks at the adapters.
    pub fn look_at_gpus(&mut self) {
        if !self.gpus.is_looking {
            self.gpus.is_looking = true;
            self.tasks.survey(self.settings.setup.adapter.clone());
        }
    }

    /// Begins to fetch a model.
    pub fn begin_pull(&mut self) {
        let repo = self.models.repo.trim().to_string();
        let tell = self.tasks.teller();
        (self.models.news, self.models.plan) = (None, None);
        self.models.pull = Some(Pull::begin(Hub::from_env(), &repo, move |news| tell(Done::Pull(news))));
    }

    /// Ends the pull: what came is kept, and listed.
    pub fn end_pull(&mut self) {
        (self.models.pull, self.models.plan) = (None, None);
        self.tasks.cache();
    }

    /// The picture that is looked at.
    pub fn focused(&self) -> Option<(usize, PathBuf)> {
        let index = self.selection.focus()?;
        Some((index, self.document.entries().get(index)?.picture.clone()))
    }

    /// Asks about the picture that is looked at.
    pub fn ask(&mut self) {
        let Some((index, picture)) = self.focused() else { return };
        let prompt = self.asking.prompt.trim().to_string();
        self.settings.remember(&prompt);
        self.asking.id += 1;
        let name = self.document.entries()[index].name.clone();
        let said = Conversation { picture: name, prompt: prompt.clone(), is_open: true, ..Conversation::default() };
        self.asking.said.insert(0, said);
        self.asking.said.truncate(50);
        let generation = &self.settings.caption.generation;
        let most = generation.max_new_tokens.unwrap_or(256).max(256);
        let options = Box::new(GenerateOptions { num_beams: self.asking.beams, ..GenerateOptions::up_to(most) });
        self.command(Command::Ask { id: self.asking.id, picture, prompt, options });
    }

    /// Looks where the model looks in the picture.
    pub fn look(&mut self) {
        let Some((_, picture)) = self.focused() else { return };
        let prompts = self.seeing.prompts.iter().map(|prompt| prompt.trim().to_string());
        let prompts: Vec<String> = prompts.filter(|prompt| !prompt.is_empty()).collect();
        self.seeing.is_waiting = true;
        self.command(Command::Look { picture, prompts });
    }

    /// Ranks given answers about the picture.
    pub fn rank(&mut self) {
        let Some((_, picture)) = self.focused() else { return };
        let choices = self.ranking.choices.lines().map(|line| line.trim().to_string());
        let choices = choices.filter(|choice| !choice.is_empty()).collect();
        self.ranking.is_waiting = true;
        self.command(Command::Rank { picture, prompt: self.ranking.prompt.trim().into(), choices });
    }

    /// Captions pictures by the settings.
    pub fn caption(&mut self, indices: &[usize]) {
        self.document.end_typing();
        let options = self.settings.caption.clone();
        let Some(folder) = self.folder.clone() else {
            return self.notice("there is no folder for the journal of a job; set HOME, or start with --config FOLDER");
        };
        let is_asked =
            |index: &usize| options.existing != Existing::Keep || self.document.entries()[*index].caption.is_empty();
        let indices: Vec<usize> = indices.iter().copied().filter(is_asked).collect();
        if indices.is_empty() {
            return self.notice("every one of these pictures has a caption, which is kept");
        }
        let begun = self.items(&indices, &options).and_then(|items| {
            options.answer_options().check().map_err(|error| error.to_string())?;
            let pictures = items.iter().map(|item| item.picture.clone()).collect();
            let job = Job { sources: self.document.sources.clone(), options: options.clone(), pictures };
            Ok((items, Journal::begin(&folder, &job)?))
        });
        match begun {
            Ok((items, journal)) => self.begin_run(items, &options, journal),
            Err(problem) => self.notice(problem),
        }
    }

    /// The pictures of a run, with their prompts.
    ///
    /// # Errors
    /// A description of what the prompt lacks.
    pub(super) fn items(&self, indices: &[usize], options: &CaptionOptions) -> Result<Vec<Item>, String> {
        let taught = self.facts().is_none_or(|facts| facts.taught);
        let item = |&index: &usize| {
            let entry = &self.document.entries()[index];
            Ok(Item {
                picture: entry.picture.clone(),
                prompt: options.prompt_about(entry, taught)?,
                caption: entry.caption.clone(),
                disk: entry.disk.clone(),
            })
        };
        indices.iter().map(item).collect()
    }

    /// Begins a run.
    pub(super) fn begin_run(&mut self, items: Vec<Item>, options: &CaptionOptions, journal: Journal) {
        self.runs += 1;
        let total = items.len();
        self.running = Some(Running { id: self.runs, begun: Instant::now(), done: 0, total, failed: 0 });
        let (existing, answer) = (options.existing, options.answer_options());
        let run = Run { id: self.runs, items, existing, options: answer, journal };
        self.command(Command::Caption(Box::new(run)));
    }

    /// Goes on with the job that was interrupted.
    pub fn go_on(&mut self) {
        if self.unsaved() > 0 {
            return self.notice("save your captions first: the pictures of the job are opened anew");
        }
        let Some(interrupted) = self.interrupted.take() else { return };
        let (sources, options) = (interrupted.job.sources.clone(), interrupted.job.options.clone());
        let (journal, pictures, last) = interrupted.go_on();
        if let Err(problem) = last {
            self.notice(problem);
        }
        self.resuming = Some(Resumed { journal, pictures, options });
        // Captions may have been written since these pictures were opened, if they are.
        self.open_now(sources);
    }

    /// Forgets the job that was interrupted.
    pub fn forget(&mut self) {
        if let Some(interrupted) = self.interrupted.take() {
            interrupted.forget();
        }
    }

    /// Pictures that a change is about: the chosen ones, or all that are shown.
    pub fn over(&mut self) -> Arc<Vec<usize>> {
        match self.finding.chosen_only {
            true => Arc::new(self.selection.chosen().collect()),
            false => self.shown(),
        }
    }

    /// Numbers of places and captions that are found.
    pub fn found(&mut self) -> (usize, usize) {
        let over = self.over();
        let found = &self.finding.found;
        if (found.version, &found.replace) != (self.document.version(), &self.finding.replace) || found.over != over {
            let (replace, entries) = (self.finding.replace.clone(), self.document.entries());
            let counts = over.iter().map(|&index| replace.of(&entries[index].caption).1);
            let add = |(places, captions), count| (places + count, captions + usize::from(count > 0));
            let numbers = counts.fold((0, 0), add);
            self.finding.found = Found { version: self.document.version(), replace, over, numbers };
        }
        self.finding.found.numbers
    }

    /// Finds and replaces.
    pub fn replace(&mut self) {
        self.document.end_typing();
        let (over, replace) = (self.over(), self.finding.replace.clone());
        let entries = self.document.entries();
        let captions: Vec<_> = over.iter().map(|&index| (index, replace.of(&entries[index].caption).0)).collect();
        let count = self.document.change(&format!("replacement of {:?}", replace.find), captions);
        self.notice(format!("{count} captions changed"));
    }

    /// Changes tags.
    pub fn change_tags(&mut self, change: &TagChange) {
        self.document.end_typing();
        let over = self.over();
        let entries = self.document.entries();
        let captions: Vec<_> = over.iter().map(|&index| (index, change.of(&entries[index].caption))).collect();
        let count = self.document.change(&change.name(), captions);
        self.notice(format!("{}: {count} captions changed", change.name()));
    }

    /// Tests the kernels.
    pub fn test(&mut self) {
        (self.gpus.is_busy, self.gpus.verdict) = (true, None);
        self.command(Command::SelfTest);
    }

    /// Looks for the fastest sizes.
    pub fn tune(&mut self) {
        (self.gpus.is_busy, self.gpus.tuned) = (true, None);
        self.command(Command::Tune);
    }

    /// Opens a panel, and looks at what it shows.
    pub fn turn_to(&mut self, tab: Tab) {
        self.tab = tab;
        match tab {
            Tab::Models => {
                if self.models.cache.is_none() {
                    self.tasks.cache();
                }
                if self.models.looked_at.is_none() {
                    self.look_at_model(self.settings.setup.source.clone());
                }
            }
            Tab::Gpu if self.gpus.survey.is_none() => self.look_at_gpus(),
            _ => {}
        }
    }
}
