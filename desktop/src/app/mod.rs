//! The app: its state, and what a frame does. Events are in `events`, what buttons and keys do in `actions`.

mod actions;
mod events;
mod keys;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eframe::egui;
use instructblip::hub::Plan;

use crate::captions::Document;
use crate::captions::journal::Interrupted;
use crate::captions::search::{Filter, Replace};
use crate::frames::FrameLog;
use crate::selection::Selection;
use crate::settings::{Look, Settings};
use crate::tasks::Tasks;
use crate::thumbnails::Thumbnails;
use crate::views;
use crate::work::device::{Survey, Verdict};
use crate::work::pull::Pull;
use crate::work::store::{Cache, Way};
use crate::work::{Facts, Looked, Ranked, Setup, Source, Wake, Work};

pub use keys::SHORTCUTS;

/// The arguments that the program was started with.
#[derive(Debug, Default)]
pub struct Start {
    /// Folders and pictures to open.
    pub sources: Vec<PathBuf>,
    /// The folder of settings and journals; the user's if `None`.
    pub config: Option<PathBuf>,
    /// The file of the frame log.
    pub frame_log: Option<PathBuf>,
}

/// The panels beside the grid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tab {
    /// The caption, and captions by the model.
    #[default]
    Caption,
    /// A question.
    Ask,
    /// Maps of where the model looks.
    See,
    /// Given answers.
    Rank,
    /// Find and replace, and tags.
    Find,
    /// Models.
    Models,
    /// Adapters.
    Gpu,
    /// Settings.
    Settings,
}

impl Tab {
    /// Every panel with its name.
    pub const ALL: [(Tab, &'static str); 8] = [
        (Tab::Caption, "Caption"),
        (Tab::Ask, "Ask"),
        (Tab::See, "See"),
        (Tab::Rank, "Rank"),
        (Tab::Find, "Find"),
        (Tab::Models, "Models"),
        (Tab::Gpu, "GPU"),
        (Tab::Settings, "Settings"),
    ];
}

/// A question that stands over the window.
#[derive(Debug, PartialEq, Eq)]
pub enum Dialog {
    /// The keys.
    Help,
    /// Captions are not saved, and something would lose them.
    Unsaved(Then),
    /// Caption files have a foreign text: numbers of the pictures and the texts.
    Foreign(Vec<(usize, String)>),
}

/// Something that waits for captions to be saved or given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// The window closes.
    Close,
    /// Other pictures are opened.
    Open(Vec<PathBuf>),
}

/// A model, or why there is none.
#[derive(Debug)]
pub enum ModelState {
    /// It is being loaded.
    Loading,
    /// It is ready.
    Ready(Facts),
    /// There is none, and why.
    None(String),
}

/// A run of captions.
#[derive(Debug)]
pub struct Running {
    /// The number of its events.
    pub id: u64,
    /// The time it began.
    pub begun: Instant,
    /// Pictures that are done, of how many.
    pub done: usize,
    /// All of its pictures.
    pub total: usize,
    /// Pictures without a caption, by an error.
    pub failed: usize,
}

impl Running {
    /// The time that is left, by the time each picture took so far.
    pub fn left(&self) -> Option<Duration> {
        let each = self.begun.elapsed().checked_div(u32::try_from(self.done).ok()?)?;
        Some(each * u32::try_from(self.total - self.done).ok()?)
    }
}

/// A question and its answer.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// The picture's name.
    pub picture: String,
    /// The prompt.
    pub prompt: String,
    /// The answer as far as it came.
    pub answer: String,
    /// A line about it: tokens and time.
    pub note: String,
    /// True while more may come.
    pub is_open: bool,
}

/// The panel `Ask`.
#[derive(Debug, Default)]
pub struct Asking {
    /// The question as it is typed.
    pub prompt: String,
    /// The number of the last question.
    pub id: u64,
    /// Questions with answers, the last one first.
    pub said: Vec<Conversation>,
    /// Beams to search with.
    pub beams: u32,
}

/// The panel `See`.
#[derive(Debug, Default)]
pub struct Seeing {
    /// The instructions as they are typed.
    pub prompts: [String; 2],
    /// The number of the last look: the maps of another are other pictures.
    pub look: u64,
    /// The picture and what was seen.
    pub seen: Option<(Arc<instructblip::Image>, Vec<Looked>)>,
    /// The layer, head and query that are shown; all of them where there is none.
    pub layer: Option<usize>,
    /// The head.
    pub head: Option<usize>,
    /// The query.
    pub query: Option<usize>,
    /// The reason why there is nothing to see.
    pub problem: Option<String>,
    /// True until the model has looked.
    pub is_waiting: bool,
}

/// The panel `Rank`.
#[derive(Debug, Default)]
pub struct Ranking {
    /// The question as it is typed.
    pub prompt: String,
    /// The answers as they are typed, one a line.
    pub choices: String,
    /// The answers with their shares, or why there are none.
    pub ranked: Option<Result<Vec<Ranked>, String>>,
    /// True until the model has ranked them.
    pub is_waiting: bool,
}

/// Numbers of places that were found, and by what they were.
#[derive(Debug, Default)]
pub struct Found {
    version: u64,
    replace: Replace,
    over: Arc<Vec<usize>>,
    numbers: (usize, usize),
}

/// The panel `Find`.
#[derive(Debug, Default)]
pub struct Finding {
    /// The text to be found, and the one in its place.
    pub replace: Replace,
    /// True for the chosen pictures only.
    pub chosen_only: bool,
    /// The tag that is typed.
    pub tag: String,
    /// The tag that is chosen, and the name that is typed for it.
    pub renamed: Option<(String, String)>,
    /// Tags by the alphabet, not by number.
    pub by_name: bool,
    /// Tags with their numbers, of a version of the document.
    pub tags: (u64, bool, Vec<(String, usize)>),
    /// The places that were found last.
    found: Found,
}

/// The panel `Models`.
#[derive(Debug, Default)]
pub struct Models {
    /// The cache, once it was looked into.
    pub cache: Option<Result<Cache, String>>,
    /// The model whose ways are shown.
    pub looked_at: Option<Source>,
    /// The ways to load it.
    pub ways: Option<Result<Vec<Way>, String>>,
    /// The repository as it is typed.
    pub repo: String,
    /// The pull that runs.
    pub pull: Option<Pull>,
    /// The last thing that the pull told.
    pub news: Option<crate::work::pull::News>,
    /// The plan of the pull, which waits for agreement while this is so.
    pub plan: Option<(Box<Plan>, bool)>,
    /// The model that is to be removed, if that is confirmed.
    pub removing: Option<String>,
}

/// The panel `GPU`.
#[derive(Debug, Default)]
pub struct Gpus {
    /// Everything known of the adapters.
    pub survey: Option<Survey>,
    /// True while they are looked at.
    pub is_looking: bool,
    /// The self-test's verdict.
    pub verdict: Option<Result<Verdict, String>>,
    /// The sizes that were compared.
    pub tuned: Option<Result<Vec<String>, String>>,
    /// True while one of them runs.
    pub is_busy: bool,
}

/// Everything that the window shows.
pub struct App {
    /// Settings.
    pub settings: Settings,
    /// The settings as they were kept last, and when.
    kept: (Settings, Instant),
    /// The folder of settings and journals.
    pub folder: Option<PathBuf>,
    /// The model's thread.
    pub work: Work,
    /// Other threads.
    pub tasks: Tasks,
    /// Pictures.
    pub thumbnails: Thumbnails,
    /// Captions.
    pub document: Document,
    /// True while folders are looked into.
    pub is_opening: bool,
    /// Chosen pictures.
    pub selection: Selection,
    /// The filter.
    pub filter: Filter,
    /// The pictures that the filter shows, of a version of the document.
    shown: (u64, Filter, Arc<Vec<usize>>),
    /// Numbers of unsaved captions, of a version of the document.
    unsaved: (u64, usize),
    /// The picture that is to be scrolled to.
    pub scroll_to: Option<usize>,
    /// Pictures in a row of the grid.
    pub columns: usize,
    /// The panel that is open.
    pub tab: Tab,
    /// The question that stands over the window.
    pub dialog: Option<Dialog>,
    /// Things that went wrong, or well, the last one last.
    pub notices: Vec<String>,
    /// The model.
    pub model: ModelState,
    /// The thing that the model's thread does, and how far it is.
    pub doing: Option<(String, Option<(u64, u64)>)>,
    /// The captions that are being made.
    pub running: Option<Running>,
    /// A job that was interrupted.
    pub interrupted: Option<Box<Interrupted>>,
    /// The job that goes on once its folder is open.
    resuming: Option<actions::Resumed>,
    /// The number of the last run.
    runs: u64,
    /// The panel `Ask`.
    pub asking: Asking,
    /// The panel `See`.
    pub seeing: Seeing,
    /// The panel `Rank`.
    pub ranking: Ranking,
    /// The panel `Find`.
    pub finding: Finding,
    /// The panel `Models`.
    pub models: Models,
    /// The panel `GPU`.
    pub gpus: Gpus,
    frame_log: Option<FrameLog>,
    /// Time of this frame before it was drawn.
    thought: Duration,
    /// True once the window may close whatever is unsaved.
    closes: bool,
    /// Keys of this frame that wait until it is drawn.
    late: keys::Late,
    /// True if a key asked for the end.
    wants_to_close: bool,
    /// True until the first frame was drawn.
    is_new: bool,
}

/// The name of the caption's text field, by which keys know that it has the focus.
pub fn editor_id() -> egui::Id {
    egui::Id::unique("caption editor")
}

/// The name of the first text field of a panel, which gets the focus with it.
pub fn first_field_id(tab: Tab) -> egui::Id {
    egui::Id::unique(("first field", tab as u8))
}

/// The name of the filter's text field.
pub fn filter_id() -> egui::Id {
    egui::Id::unique("filter")
}

/// The pause before changed settings are kept.
const SETTLED: Duration = Duration::from_secs(2);

impl App {
    /// Starts the threads and begins to load the model.
    ///
    /// # Errors
    /// A description of why it cannot start, for people.
    pub fn new(ctx: &egui::Context, start: Start) -> Result<App, String> {
        let waker = ctx.clone();
        let wake: Wake = Arc::new(move || waker.request_repaint());
        let folder = start.config.or_else(crate::settings::folder);
        let (settings, problem) = folder.as_deref().map(Settings::read).unwrap_or_default();
        let threads = |e: std::io::Error| format!("threads cannot be started ({e})");
        let work = Work::start(wake.clone()).map_err(threads)?;
        let thumbnails = Thumbnails::start(&wake).map_err(threads)?;
        let frame_log = start.frame_log.as_deref().map(FrameLog::begin).transpose()?;
        let mut app = App {
            kept: (settings.clone(), Instant::now()),
            settings,
            folder,
            work,
            tasks: Tasks::new(wake),
            thumbnails,
            document: Document::default(),
            is_opening: false,
            selection: Selection::default(),
            filter: Filter::default(),
            shown: (0, Filter::default(), Arc::default()),
            unsaved: (0, 0),
            scroll_to: None,
            columns: 1,
            tab: Tab::default(),
            dialog: None,
            notices: problem.into_iter().collect(),
            model: ModelState::Loading,
            doing: None,
            running: None,
            interrupted: None,
            resuming: None,
            runs: 0,
            asking: Asking { beams: 1, ..Asking::default() },
            seeing: Seeing::default(),
            ranking: Ranking::default(),
            finding: Finding::default(),
            models: Models::default(),
            gpus: Gpus::default(),
            frame_log,
            thought: Duration::ZERO,
            closes: false,
            late: keys::Late::default(),
            wants_to_close: false,
            is_new: true,
        };
        if let Some(folder) = app.folder.clone() {
            app.tasks.interrupted(folder);
        }
        match (start.sources.is_empty(), app.settings.sources.clone()) {
            (false, _) => app.open_now(start.sources),
            (true, last) if !last.is_empty() && last.iter().all(|path| path.exists()) => app.open_now(last),
            _ => {}
        }
        app.load_model();
        Ok(app)
    }

    /// The pictures that the filter shows.
    pub fn shown(&mut self) -> Arc<Vec<usize>> {
        if self.shown.0 != self.document.version() || self.shown.1 != self.filter {
            let shown = Arc::new(self.filter.matching(self.document.entries()));
            self.shown = (self.document.version(), self.filter.clone(), shown);
        }
        self.shown.2.clone()
    }

    /// The number of captions that are not in their files.
    pub fn unsaved(&mut self) -> usize {
        if self.unsaved.0 != self.document.version() {
            self.unsaved = (self.document.version(), self.document.unsaved().len());
        }
        self.unsaved.1
    }

    /// The facts of the model, if it is ready.
    pub fn facts(&self) -> Option<&Facts> {
        match &self.model {
            ModelState::Ready(facts) => Some(facts),
            _ => None,
        }
    }

    /// Tells something to the user.
    pub fn notice(&mut self, text: impl Into<String>) {
        const MOST: usize = 50;
        self.notices.push(text.into());
        if self.notices.len() > MOST {
            self.notices.remove(0);
        }
    }

    /// The setup of a model, on the adapter and with the settings there are.
    pub fn setup_of(&self, source: Source) -> Setup {
        Setup { source, ..self.settings.setup.clone() }
    }

    /// Everything of a frame that is not drawing: also while the window is hidden.
    pub fn think(&mut self, ctx: &egui::Context) {
        self.hear();
        self.keep_settings(ctx, false);
        if ctx.input(|input| input.viewport().close_requested()) && !self.closes {
            if self.unsaved() > 0 {
                ctx.send_viewport_cmd(egui::ViewportCommand::CancelClose);
                self.dialog = Some(Dialog::Unsaved(Then::Close));
            } else {
                self.closes = true;
            }
        }
    }

    /// Draws a frame.
    pub fn draw(&mut self, ui: &mut egui::Ui) {
        let ctx = ui.ctx().clone();
        if self.is_new {
            self.is_new = false;
            ctx.set_zoom_factor(self.settings.zoom);
            views::style(&ctx);
        }
        // The keyboard may have changed it.
        self.settings.zoom = ctx.zoom_factor();
        ctx.set_theme(match self.settings.look {
            Look::System => egui::ThemePreference::System,
            Look::Light => egui::ThemePreference::Light,
            Look::Dark => egui::ThemePreference::Dark,
        });
        self.thumbnails.begin(&ctx, self.settings.setup.pictures());
        self.take_dropped(&ctx);
        self.obey_keys(&ctx);
        views::show(self, ui);
        self.obey_late();
        if std::mem::take(&mut self.wants_to_close) || self.closes {
            ctx.send_viewport_cmd(egui::ViewportCommand::Close);
        }
        if self.running.is_some() {
            // The time that is left changes by itself.
            ctx.request_repaint_after(Duration::from_millis(500));
        }
    }

    /// Keeps changed settings once they do not change any more, or now.
    fn keep_settings(&mut self, ctx: &egui::Context, now: bool) {
        let Some(folder) = self.folder.clone().filter(|_| self.settings != self.kept.0) else { return };
        if now {
            // At the end of the program nobody is there to be told.
            let _ = self.settings.keep(&folder);
        } else if self.kept.1.elapsed() > SETTLED {
            self.kept = (self.settings.clone(), Instant::now());
            self.tasks.keep(self.settings.clone(), folder);
        } else {
            ctx.request_repaint_after(SETTLED);
        }
    }

    /// Ends the threads and keeps what is to be kept.
    pub fn end(&mut self, ctx: &egui::Context) {
        self.work.close();
        self.hear();
        self.models.pull = None;
        self.keep_settings(ctx, true);
        self.frame_log = None;
    }
}

/// The app as a window has it.
pub struct Window {
    app: App,
    ctx: egui::Context,
}

impl Window {
    /// The window of an app.
    pub fn new(app: App, ctx: egui::Context) -> Window {
        Window { app, ctx }
    }
}

impl eframe::App for Window {
    fn logic(&mut self, ctx: &egui::Context, _: &mut eframe::Frame) {
        let begun = Instant::now();
        self.app.think(ctx);
        self.app.thought = begun.elapsed();
    }

    fn ui(&mut self, ui: &mut egui::Ui, _: &mut eframe::Frame) {
        let begun = Instant::now();
        self.app.draw(ui);
        let took = begun.elapsed() + std::mem::take(&mut self.app.thought);
        if let Some(log) = &mut self.app.frame_log {
            log.note(took);
        }
    }

    fn on_exit(&mut self) {
        self.app.end(&self.ctx);
    }
}
