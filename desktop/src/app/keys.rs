//! Keys, and what they do.

use eframe::egui::{self, Key, KeyboardShortcut, Modifiers};

use super::{App, Dialog, Tab, editor_id, filter_id, first_field_id};
use crate::tasks::Wanted;

/// Every key with what it does, for the page of help.
pub const SHORTCUTS: [(&str, &str); 19] = [
    ("Ctrl+O", "open a folder"),
    ("Ctrl+Shift+O", "open pictures"),
    ("Ctrl+S", "save all captions"),
    ("Ctrl+Z", "undo"),
    ("Ctrl+Y, Ctrl+Shift+Z", "redo"),
    ("Arrows, Home, End, Page Up, Page Down", "go to another picture"),
    ("Shift with these", "choose those between"),
    ("Ctrl+A", "choose all that are shown"),
    ("F2", "write the caption"),
    ("Ctrl+Up, Ctrl+Down", "go to another picture while writing"),
    ("Ctrl+Enter", "caption the chosen pictures, ask, look or rank, by the panel"),
    ("Ctrl+Shift+Enter", "caption all that are shown"),
    ("Escape", "stop what the model does; leave a field or a dialog"),
    ("Ctrl+F", "filter the pictures"),
    ("Ctrl+H", "find and replace"),
    ("Ctrl+1 to Ctrl+8", "turn to a panel"),
    ("Ctrl+Plus, Ctrl+Minus, Ctrl+0", "larger, smaller, as the system has it"),
    ("Ctrl+Q", "quit"),
    ("F1, ?", "this page"),
];

/// Keys that mean what is typed in the same frame, too.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Late {
    saves: bool,
    makes: bool,
    makes_all: bool,
}

const NUMBERS: [Key; 8] = [Key::Num1, Key::Num2, Key::Num3, Key::Num4, Key::Num5, Key::Num6, Key::Num7, Key::Num8];

fn command(key: Key) -> KeyboardShortcut {
    KeyboardShortcut::new(Modifiers::COMMAND, key)
}

fn command_shift(key: Key) -> KeyboardShortcut {
    KeyboardShortcut::new(Modifiers::COMMAND | Modifiers::SHIFT, key)
}

impl App {
    /// Does what the keys of this frame ask for.
    pub(super) fn obey_keys(&mut self, ctx: &egui::Context) {
        let pressed = |shortcut: KeyboardShortcut| ctx.input_mut(|input| input.consume_shortcut(&shortcut));
        let plain = |key: Key| ctx.input_mut(|input| input.consume_key(Modifiers::NONE, key));
        let focus = ctx.memory(|memory| memory.focused());
        let types = ctx.egui_wants_keyboard_input();
        if plain(Key::F1) || !types && ctx.input(|input| input.events.iter().any(is_question_mark)) {
            self.dialog = match self.dialog.take() {
                Some(Dialog::Help) => None,
                None => Some(Dialog::Help),
                other => other,
            };
        }
        if self.dialog.is_some() {
            return self.leave_dialog(plain(Key::Escape));
        }
        self.obey_files(&pressed);
        if let Some(tab) = self.turned_by(&pressed) {
            self.turn_to(tab);
            ctx.memory_mut(|memory| memory.request_focus(first_field_id(tab)));
        }
        if pressed(command(Key::F)) {
            ctx.memory_mut(|memory| memory.request_focus(filter_id()));
        }
        if plain(Key::F2) {
            self.turn_to(Tab::Caption);
            ctx.memory_mut(|memory| memory.request_focus(editor_id()));
        }
        // A field with the focus takes back its own letters, but for the caption's, which the document keeps.
        if !types || focus == Some(editor_id()) {
            if pressed(command_shift(Key::Z)) || pressed(command(Key::Y)) {
                self.document.redo();
            } else if pressed(command(Key::Z)) {
                self.document.undo();
            }
        }
        if plain(Key::Escape) {
            match focus.filter(|_| types) {
                Some(field) => ctx.memory_mut(|memory| memory.surrender_focus(field)),
                None => self.work.stop(),
            }
        }
        self.late = Late {
            saves: pressed(command(Key::S)),
            makes_all: pressed(command_shift(Key::Enter)),
            makes: pressed(command(Key::Enter)),
        };
        self.go_by_keys(ctx, types);
    }

    fn leave_dialog(&mut self, leaves: bool) {
        if leaves && !matches!(self.dialog, Some(Dialog::Foreign(_))) {
            self.dialog = None;
        }
    }

    fn obey_files(&mut self, pressed: &impl Fn(KeyboardShortcut) -> bool) {
        if pressed(command_shift(Key::O)) {
            self.pick(Wanted::Pictures);
        } else if pressed(command(Key::O)) {
            self.pick(Wanted::Folder);
        }
        if pressed(command(Key::Q)) {
            self.wants_to_close = true;
        }
    }

    /// The panel that a key asks for.
    fn turned_by(&self, pressed: &impl Fn(KeyboardShortcut) -> bool) -> Option<Tab> {
        let by_number = NUMBERS.into_iter().zip(Tab::ALL).find(|(key, _)| pressed(command(*key)));
        by_number.map(|(_, (tab, _))| tab).or_else(|| pressed(command(Key::H)).then_some(Tab::Find))
    }

    /// Does what has to wait until fields have what was typed in the same frame.
    pub(super) fn obey_late(&mut self) {
        let Late { saves, makes, makes_all } = std::mem::take(&mut self.late);
        if saves {
            self.save();
        }
        if (makes || makes_all) && self.facts().is_none() {
            return self.notice("there is no model yet");
        }
        if makes_all && self.can_caption() {
            let shown = self.shown();
            self.caption(&shown);
        }
        if makes {
            match self.tab {
                Tab::Caption if self.can_caption() => {
                    let chosen: Vec<usize> = self.selection.chosen().collect();
                    self.caption(&chosen);
                }
                Tab::Ask if self.can_ask() => self.ask(),
                Tab::See if self.can_look() => self.look(),
                Tab::Rank if self.can_rank() => self.rank(),
                _ => {}
            }
        }
    }

    fn go_by_keys(&mut self, ctx: &egui::Context, types: bool) {
        let columns = self.columns.max(1) as isize;
        let page = columns * 3;
        let moves = [
            (Key::ArrowLeft, -1),
            (Key::ArrowRight, 1),
            (Key::ArrowUp, -columns),
            (Key::ArrowDown, columns),
            (Key::PageUp, -page),
            (Key::PageDown, page),
            (Key::Home, isize::MIN / 2),
            (Key::End, isize::MAX / 2),
        ];
        let shown = self.shown();
        let goes = |app: &mut App, by: isize, extends: bool| {
            app.document.end_typing();
            app.selection.go(by, extends, &shown);
            app.scroll_to = app.selection.focus();
        };
        let pressed = |modifiers: Modifiers, key: Key| ctx.input_mut(|input| input.consume_key(modifiers, key));
        for (key, by) in [(Key::ArrowUp, -1), (Key::ArrowDown, 1)] {
            if pressed(Modifiers::COMMAND, key) {
                goes(self, by, false);
            }
        }
        if types {
            return;
        }
        for (key, by) in moves {
            if pressed(Modifiers::SHIFT, key) {
                goes(self, by, true);
            } else if pressed(Modifiers::NONE, key) {
                goes(self, by, false);
            }
        }
        if pressed(Modifiers::COMMAND, Key::A) {
            self.selection.choose_all(&shown);
        }
    }

    /// True if pictures can be captioned now.
    pub fn can_caption(&self) -> bool {
        self.facts().is_some() && self.running.is_none() && self.selection.focus().is_some()
    }

    /// True if the question can be asked now.
    pub fn can_ask(&self) -> bool {
        self.facts().is_some() && self.focused().is_some() && !self.asking.said.first().is_some_and(|said| said.is_open)
    }

    /// True if the model can look now.
    pub fn can_look(&self) -> bool {
        let has_prompt = self.seeing.prompts.iter().any(|prompt| !prompt.trim().is_empty());
        self.facts().is_some() && self.focused().is_some() && !self.seeing.is_waiting && has_prompt
    }

    /// True if answers can be ranked now.
    pub fn can_rank(&self) -> bool {
        let has_choices = self.ranking.choices.lines().filter(|line| !line.trim().is_empty()).count() > 1;
        self.facts().is_some() && self.focused().is_some() && !self.ranking.is_waiting && has_choices
    }
}

fn is_question_mark(event: &egui::Event) -> bool {
    matches!(event, egui::Event::Text(text) if text == "?")
}
