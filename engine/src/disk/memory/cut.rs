//! What a power cut leaves of a disk: which unsynced writes and names, by the dice.
//!
//! Of writes, any subset: a cache writes back in any order. Each of them whole, torn at sectors, or as zeros under the
//! new length (a file system that wrote the length first). Of one folder's names some first changes, or any that don't
//! build on a lost one: journalling file systems keep their order, others keep what they like.

use super::Dice;
use super::content::Content;
use super::tree::{Change, Dir, Durable, NameChange, Node, Tree, set_names};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes that a disk writes as a whole or not at all.
const SECTOR_BYTES: usize = 512;

/// What a power cut did to what was not synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    pub writes_lost: u64,
    pub writes_kept: u64,
    pub writes_torn: u64,
    /// Writes of which the length alone is there, with zeros.
    pub writes_zeroed: u64,
    pub names_lost: u64,
    pub names_kept: u64,
}

/// Which of many unsynced changes survive. Independent coins alone would hardly ever keep all but one of fifty.
#[derive(Clone, Copy)]
enum Survival {
    Nothing,
    Coins,
    First(u64),
    AllBut(u64),
    Only(u64),
}

pub(super) fn cut(tree: &mut Tree, mut dice: Option<&mut Dice>) -> Cut {
    let mut done = Cut::default();
    tree.locks.clear();
    let unsynced: usize = tree.nodes.values().map(changes).sum();
    let survival = match dice.as_deref_mut() {
        None => Survival::Nothing,
        Some(dice) => {
            let which = dice.below(unsynced as u64 + 1);
            match dice.below(8) {
                0 => Survival::First(which),
                1 => Survival::AllBut(which),
                2 => Survival::Only(which),
                _ => Survival::Coins,
            }
        }
    };
    let mut at = 0;
    let mut survives = |dice: &mut Option<&mut Dice>| {
        at += 1;
        match survival {
            Survival::Nothing => false,
            Survival::Coins => dice.as_deref_mut().is_some_and(|dice| dice.below(2) == 0),
            Survival::First(count) => at <= count,
            Survival::AllBut(which) => at != which,
            Survival::Only(which) => at == which,
        }
    };
    for node in tree.nodes.values_mut() {
        match node {
            Node::File(now, durable) => {
                for change in std::mem::take(&mut durable.changes) {
                    match survives(&mut dice) {
                        true => write_back(durable, &change, dice.as_deref_mut(), &mut done),
                        false => done.writes_lost += 1,
                    }
                }
                now.clone_from(&durable.content);
            }
            Node::Dir(dir) => {
                // A file system's journal keeps the order; a quarter of the cuts has one that does not.
                let in_order = dice.as_deref_mut().is_none_or(|dice| dice.below(4) > 0);
                write_names_back(dir, in_order, || survives(&mut dice), &mut done);
            }
        }
    }
    tree.drop_unreachable();
    done
}

fn changes(node: &Node) -> usize {
    match node {
        Node::Dir(dir) => dir.changes.len(),
        Node::File(_, durable) => durable.changes.len(),
    }
}

fn write_back(durable: &mut Durable, change: &Change, dice: Option<&mut Dice>, done: &mut Cut) {
    let content = &mut durable.content;
    match (dice, change) {
        (Some(dice), Change::Write { offset, bytes }) => match dice.below(6) {
            0 => {
                tear(content, *offset, bytes, dice);
                done.writes_torn += 1;
            }
            1 if offset + bytes.len() > content.len() => {
                content.resize(offset + bytes.len());
                done.writes_zeroed += 1;
            }
            _ => {
                change.apply(content);
                done.writes_kept += 1;
            }
        },
        _ => {
            change.apply(content);
            done.writes_kept += 1;
        }
    }
}

/// Each sector by itself.
fn tear(content: &mut Content, offset: usize, bytes: &[u8], dice: &mut Dice) {
    let mut at = 0;
    while at < bytes.len() {
        let sector_end = (offset + at + 1).next_multiple_of(SECTOR_BYTES) - offset;
        let end = sector_end.min(bytes.len());
        if dice.below(2) == 0 {
            content.write(offset + at, &bytes[at..end]);
        }
        at = end;
    }
}

fn write_names_back(dir: &mut Dir, in_order: bool, mut survives: impl FnMut() -> bool, done: &mut Cut) {
    let mut lost_names = BTreeSet::new();
    let mut lost_one = false;
    let changes: Vec<NameChange> = std::mem::take(&mut dir.changes);
    let mut names: BTreeMap<String, u64> = std::mem::take(&mut dir.durable);
    for change in changes {
        let builds_on_lost = match in_order {
            true => lost_one,
            false => change.iter().any(|(name, _)| lost_names.contains(name)),
        };
        if survives() && !builds_on_lost {
            set_names(&mut names, &change);
            done.names_kept += 1;
        } else {
            lost_names.extend(change.into_iter().map(|(name, _)| name));
            lost_one = true;
            done.names_lost += 1;
        }
    }
    dir.durable = names;
    dir.now.clone_from(&dir.durable);
}
