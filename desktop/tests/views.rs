//! The whole app without a window: clicks and keys by the names that screen readers read, the real embedded model on
//! whatever adapter there is, real files.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use eframe::egui::{self, Key, Modifiers, Role};
use egui_kittest::kittest::{NodeT, Queryable};
use egui_kittest::{Harness, Node};
use instructblip_desktop::app::{App, Dialog, Start, Tab};
use instructblip_desktop::captions::files::caption_path;
use instructblip_desktop::captions::journal::{Interrupted, Job, Journal};
use instructblip_desktop::captions::prompt::CaptionOptions;

/// The most time that anything takes; a software adapter compiles first.
const LIMIT: Duration = Duration::from_secs(240);

type Desk = Harness<'static, Option<App>>;

/// A folder with so many pictures of the demo.
fn pictures(count: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for i in 0..count {
        let sample = format!("../tests/shapes/samples/{:02}.png", i % 12);
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(sample);
        std::fs::copy(from, folder.path().join(format!("{i:02}.png"))).expect("copied");
    }
    folder
}

/// The app with pictures, and settings of its own.
fn desk(sources: Vec<PathBuf>, config: &Path, size: [f32; 2]) -> Desk {
    let mut start = Some(Start { sources, config: Some(config.into()), frame_log: None });
    let draw = move |ui: &mut egui::Ui, app: &mut Option<App>| {
        if let Some(start) = start.take() {
            *app = Some(App::new(ui.ctx(), start).expect("an app"));
        }
        let app = app.as_mut().expect("there is one from the first frame on");
        app.think(&ui.ctx().clone());
        app.draw(ui);
    };
    Harness::builder().with_size(size).build_ui_state(draw, None)
}

fn app(desk: &Desk) -> &App {
    desk.state().as_ref().expect("an app")
}

/// Draws frames until something is so.
fn until(desk: &mut Desk, what: &str, is_so: impl Fn(&App) -> bool) {
    let begun = Instant::now();
    while !is_so(app(desk)) {
        let notices = app(desk).notices.join("\n");
        assert!(begun.elapsed() < LIMIT, "{what} did not happen; notices:\n{notices}");
        desk.step();
        std::thread::sleep(Duration::from_millis(5));
    }
    desk.run_steps(3);
}

/// A field for typing, or something to click at: some have the same name.
fn named<'a>(desk: &'a Desk, name: &'a str, is_field: bool) -> Node<'a> {
    let role = |node: &Node<'_>| node.accesskit_node().role();
    let fields = [Role::TextInput, Role::MultilineTextInput];
    let is_wanted = |node: &Node<'_>| fields.contains(&role(node)) == is_field && role(node) != Role::Label;
    desk.get_all_by_label(name).find(is_wanted).unwrap_or_else(|| panic!("there is no {name} of this kind"))
}

fn click(desk: &mut Desk, name: &str) {
    named(desk, name, false).click();
    desk.run_steps(2);
}

fn write(desk: &mut Desk, name: &str, text: &str) {
    named(desk, name, true).focus();
    desk.run_steps(2);
    desk.key_press_modifiers(Modifiers::COMMAND, Key::A);
    desk.run_steps(1);
    named(desk, name, true).type_text(text);
    desk.run_steps(2);
}

fn texts(folder: &Path) -> Vec<Option<String>> {
    let mut pictures: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("one").path()).collect();
    pictures.retain(|path| path.extension().is_some_and(|extension| extension == "png"));
    pictures.sort();
    pictures.iter().map(|picture| std::fs::read_to_string(caption_path(picture)).ok()).collect()
}

fn captions(desk: &Desk) -> Vec<&str> {
    app(desk).document.entries().iter().map(|entry| entry.caption.as_str()).collect()
}

#[test]
fn pictures_are_captioned_edited_saved_asked_about_and_looked_at() {
    let (folder, config) = (pictures(8), tempfile::tempdir().expect("a folder"));
    let mut desk = desk(vec![folder.path().into()], config.path(), [1200.0, 1200.0]);
    until(&mut desk, "opening", |app| !app.document.entries().is_empty() && app.facts().is_some());

    // Captions of all of them, saved as they come.
    click(&mut desk, "Caption all 8 shown");
    until(&mut desk, "captioning", |app| app.running.is_none() && !app.notices.is_empty());
    let made: Vec<String> = captions(&desk).iter().map(|caption| caption.to_string()).collect();
    assert!(made.iter().all(|caption| caption.contains(' ')), "{made:?}; {:?}", app(&desk).notices);
    assert_eq!(texts(folder.path()).into_iter().flatten().collect::<Vec<_>>(), made);
    assert!(Interrupted::look(config.path()).is_none(), "nothing is left to go on with");

    // All of a job is taken back together; the files wait for a save.
    click(&mut desk, "Undo");
    assert!(captions(&desk).iter().all(|caption| caption.is_empty()));
    desk.get_by_label("Save 8");
    click(&mut desk, "Redo");
    assert_eq!(captions(&desk), made);

    edit_and_replace(&mut desk, folder.path());
    ask(&mut desk);
    look(&mut desk);
    rank(&mut desk);
}

fn edit_and_replace(desk: &mut Desk, folder: &Path) {
    click(desk, "picture 01.png");
    write(desk, "Caption", "one, two");
    assert_eq!(captions(desk)[1], "one, two");
    desk.key_press_modifiers(Modifiers::COMMAND, Key::S);
    until(desk, "saving", |app| app.document.unsaved().is_empty());
    assert_eq!(texts(folder)[1].as_deref(), Some("one, two"));

    click(desk, "Find");
    write(desk, "Find", "two");
    write(desk, "Replace with", "three");
    click(desk, "Replace 1");
    assert_eq!(captions(desk)[1], "one, three");
    write(desk, "Tag", "new tag");
    click(desk, "in 1 chosen");
    click(desk, "Add first");
    assert_eq!(captions(desk)[1], "new tag, one, three");
    click(desk, "Undo");
    click(desk, "Undo");
    assert_eq!(captions(desk)[1], "one, two");
}

fn ask(desk: &mut Desk) {
    click(desk, "picture 07.png");
    click(desk, "Ask");
    write(desk, "Question", "Write a short caption for the picture.");
    desk.key_press_modifiers(Modifiers::COMMAND, Key::Enter);
    until(desk, "an answer", |app| app.asking.said.first().is_some_and(|said| !said.is_open));
    let said = &app(desk).asking.said[0];
    assert!(said.answer.contains(' ') && said.note.contains("tokens in"), "{said:?}");
}

fn look(desk: &mut Desk) {
    click(desk, "See");
    write(desk, "First instruction", "What colour is the cross?");
    write(desk, "Second instruction", "How many things are there?");
    click(desk, "Look");
    until(desk, "a look", |app| app.seeing.seen.is_some());
    let (_, looked) = app(desk).seeing.seen.clone().expect("waited for");
    assert_eq!(looked.len(), 2);
    assert_ne!(looked[0].maps.mean(None, None, None), looked[1].maps.mean(None, None, None), "the instruction is read");
    assert!(desk.get_all_by_label("map of What colour is the cross?").count() > 1, "all layers and each");
}

fn rank(desk: &mut Desk) {
    click(desk, "Rank");
    write(desk, "Question", "Can you count the things?");
    write(desk, "Answers, one a line", "1\n2\n3");
    click(desk, "Rank answers");
    until(desk, "a ranking", |app| app.ranking.ranked.is_some());
    let ranked = app(desk).ranking.ranked.clone().expect("waited for").expect("ranked");
    let sum: f64 = ranked.iter().map(|answer| answer.share).sum();
    assert!((sum - 1.0).abs() < 1e-9 && ranked.len() == 3 && ranked.is_sorted_by(|a, b| a.share >= b.share));
}

#[test]
fn an_interrupted_job_is_offered_and_goes_on() {
    let (folder, config) = (pictures(4), tempfile::tempdir().expect("a folder"));
    let all: Vec<PathBuf> = (0..4).map(|i| folder.path().join(format!("{i:02}.png"))).collect();
    let job = Job { sources: vec![folder.path().into()], options: CaptionOptions::default(), pictures: all.clone() };
    let mut journal = Journal::begin(config.path(), &job).expect("begun");
    journal.note(&all[0], Some("made before the end"), None).expect("noted");
    drop(journal);
    let mut desk = desk(Vec::new(), config.path(), [1000.0, 700.0]);
    until(&mut desk, "an offer", |app| app.interrupted.is_some() && app.facts().is_some());
    click(&mut desk, "Go on");
    until(&mut desk, "the end", |app| {
        app.interrupted.is_none() && app.notices.iter().any(|n| n.contains("captions in"))
    });
    assert_eq!(texts(folder.path())[0].as_deref(), Some("made before the end"));
    assert!(texts(folder.path()).iter().all(Option::is_some));
    assert_eq!(captions(&desk)[0], "made before the end");
    assert!(Interrupted::look(config.path()).is_none());
}

#[test]
fn foreign_captions_are_asked_about_and_nothing_is_lost_on_the_way_out() {
    let (folder, config) = (pictures(3), tempfile::tempdir().expect("a folder"));
    let mut desk = desk(vec![folder.path().into()], config.path(), [1000.0, 900.0]);
    until(&mut desk, "opening", |app| app.document.entries().len() == 3);
    click(&mut desk, "picture 00.png");
    write(&mut desk, "Caption", "mine");
    let file = caption_path(&folder.path().join("00.png"));
    std::fs::write(&file, "somebody's").expect("written");
    click(&mut desk, "Save 1");
    until(&mut desk, "a question", |app| matches!(app.dialog, Some(Dialog::Foreign(_))));
    assert_eq!(std::fs::read_to_string(&file).expect("a text"), "somebody's");
    click(&mut desk, "Write mine over them");
    until(&mut desk, "saving", |app| app.document.unsaved().is_empty());
    assert_eq!(std::fs::read_to_string(&file).expect("a text"), "mine");

    write(&mut desk, "Caption", "not saved yet");
    desk.input_mut().viewports.entry(egui::ViewportId::ROOT).or_default().events.push(egui::ViewportEvent::Close);
    desk.run_steps(2);
    assert_eq!(app(&desk).dialog, Some(Dialog::Unsaved(instructblip_desktop::app::Then::Close)));
    click(&mut desk, "Save and go on");
    until(&mut desk, "saving", |app| app.dialog.is_none());
    assert_eq!(std::fs::read_to_string(&file).expect("a text"), "not saved yet");
}

#[test]
fn every_panel_can_be_read_at_every_size() {
    let (folder, config) = (pictures(3), tempfile::tempdir().expect("a folder"));
    std::fs::write(folder.path().join("bad.png"), "no picture").expect("written");
    let mut desk = desk(vec![folder.path().into()], config.path(), [1180.0, 780.0]);
    until(&mut desk, "opening", |app| app.document.entries().len() == 4 && app.facts().is_some());
    for zoom in [1.0, 2.0] {
        desk.state_mut().as_mut().expect("an app").settings.zoom = zoom;
        for (number, (tab, name)) in Tab::ALL.into_iter().enumerate() {
            let keys = [Key::Num1, Key::Num2, Key::Num3, Key::Num4, Key::Num5, Key::Num6, Key::Num7, Key::Num8];
            desk.key_press_modifiers(Modifiers::COMMAND, keys[number]);
            desk.run_steps(3);
            assert_eq!(app(&desk).tab, tab, "{name}");
            desk.check_accessibility();
        }
    }
    until(&mut desk, "models and adapters", |app| app.models.ways.is_some() && app.gpus.survey.is_some());
    desk.key_press(Key::F1);
    desk.run_steps(2);
    desk.get_by_label("caption all that are shown");
    desk.key_press(Key::Escape);
    desk.run_steps(2);
    assert_eq!(app(&desk).dialog, None);

    // Keys walk through the grid, and the filter narrows it.
    desk.key_press_modifiers(Modifiers::COMMAND, Key::Num1);
    desk.key_press(Key::End);
    desk.run_steps(2);
    assert_eq!(app(&desk).selection.focus(), Some(3));
    desk.key_press_modifiers(Modifiers::SHIFT, Key::Home);
    desk.run_steps(2);
    assert_eq!(app(&desk).selection.chosen().len(), 4);
    desk.key_press_modifiers(Modifiers::COMMAND, Key::F);
    desk.run_steps(2);
    desk.event(egui::Event::Text("name:02".into()));
    desk.run_steps(2);
    assert_eq!(desk.state_mut().as_mut().expect("an app").shown().as_slice(), [2]);
}

#[test]
fn a_filter_shows_what_it_finds_from_the_first_on() {
    let (folder, config) = (pictures(100), tempfile::tempdir().expect("a folder"));
    let mut desk = desk(vec![folder.path().into()], config.path(), [900.0, 700.0]);
    until(&mut desk, "opening", |app| !app.document.entries().is_empty());
    desk.key_press(Key::End);
    desk.run_steps(100);
    assert!(desk.query_by_label("picture 00.png").is_none() && desk.query_by_label("picture 99.png").is_some());
    desk.key_press_modifiers(Modifiers::COMMAND, Key::F);
    desk.run_steps(2);
    desk.event(egui::Event::Text("-name:99".into()));
    desk.run_steps(100);
    assert!(desk.query_by_label("picture 00.png").is_some(), "the picture with the focus is not among them");
}
