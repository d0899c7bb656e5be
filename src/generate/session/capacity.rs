//! The capacity of a session: rows, positions and pages.

use crate::language::Language;

/// The room that an answer takes while it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Slots.
    pub slots: u32,
    /// Positions of each.
    pub positions: u32,
    /// Pages of the decoder's own keys and values.
    pub pages: u32,
    /// Pages of those of an encoder's output.
    pub encoded: u32,
}

impl Room {
    /// The room for all of these side by side.
    pub fn of_all<'a>(rooms: impl Iterator<Item = &'a Room>) -> Room {
        let nothing = Room { slots: 0, positions: 0, pages: 0, encoded: 0 };
        rooms.fold(nothing, |all, room| Room {
            slots: all.slots.saturating_add(room.slots),
            positions: all.positions.max(room.positions),
            pages: all.pages.saturating_add(room.pages),
            encoded: all.encoded.saturating_add(room.encoded),
        })
    }

    /// The room for answers of at most `new_tokens` tokens in `rows` rows, after a prompt of `tokens` tokens.
    pub fn of(language: &Language, tokens: u32, rows: u32, new_tokens: u32) -> Room {
        let own = language.decoder_length(tokens);
        Room {
            slots: rows,
            positions: own.saturating_add(new_tokens),
            pages: own.saturating_add(rows.saturating_mul(new_tokens)),
            encoded: language.encoder_length(tokens),
        }
    }
}

/// The numbers of rows, positions and pages that a session has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Sequences that are decoded side by side.
    pub rows: u32,
    /// Positions of the longest sequence (of its decoder's part).
    pub positions: u32,
    /// Pages of all sequences together.
    pub pages: u32,
    /// Positions of the longest prompt that an encoder reads; 1 for decoder-only models.
    pub encoded: u32,
    /// Pages of all such prompts together; 1 for decoder-only models.
    pub encoded_pages: u32,
}

/// Capacities are rounded up to multiples of this, so that requests of similar length share a session.
const STEP: u32 = 256;

/// Pages that rows write to while they have no answer: one for all of them, where some can be without.
fn spare(rows: u32) -> u32 {
    u32::from(rows > 1)
}

impl Capacity {
    /// The capacity for answers that take these rooms, side by side.
    pub fn of(rooms: &[Room]) -> Capacity {
        let most = |of: fn(&Room) -> u32| rooms.iter().map(of).max().unwrap_or(1).max(1);
        let all = |of: fn(&Room) -> u32| rooms.iter().map(of).fold(0, u32::saturating_add).max(1);
        let rows = all(|room| room.slots);
        Capacity {
            rows,
            positions: most(|room| room.positions),
            pages: all(|room| room.pages).saturating_add(spare(rows)),
            encoded: most(|room| room.encoded),
            encoded_pages: all(|room| room.encoded),
        }
    }

    /// Pages that answers may have: all but the one where rows without an answer write.
    pub fn lent_pages(&self) -> u32 {
        self.pages - spare(self.rows)
    }

    /// Tells whether an answer can take this room while nobody else has any.
    pub fn can_hold(&self, room: &Room) -> bool {
        self.rows >= room.slots
            && self.positions >= room.positions
            && self.lent_pages() >= room.pages
            && self.encoded_pages >= room.encoded
    }

    /// Tells whether a session of this capacity can serve a request that needs `need`: as many rows as the plan has,
    /// and no more of anything else.
    pub fn holds(&self, need: &Capacity) -> bool {
        self.rows == need.rows
            && self.positions >= need.positions
            && self.pages >= need.pages
            && self.encoded >= need.encoded
            && self.encoded_pages >= need.encoded_pages
    }

    /// The capacity that a session made for this one gets.
    #[must_use]
    pub fn rounded(self, language: &Language) -> Capacity {
        let up = |n: u32| if n > 1 { n.checked_next_multiple_of(STEP).unwrap_or(n) } else { n };
        Capacity {
            rows: self.rows,
            positions: up(self.positions).min(language.max_positions().unwrap_or(u32::MAX)),
            pages: up(self.pages),
            encoded: up(self.encoded),
            encoded_pages: up(self.encoded_pages),
        }
    }
}
