//! A guess at what was meant: the tree with its mistakes of form put right or cut out, so that
//! mistakes of meaning in the rest are found in the same run. Only findings come of it, never a
//! configuration.

use std::collections::HashSet;

use serde_json::Value;

use super::diagnose::{Diagnostic, Place};
use super::schema;
use super::tree::{Kind, Node};

/// Rounds of cutting out before the rest is given up: what is cut may be missed one level up.
const ROUNDS: usize = 8;

/// What would make one mistake of form go away.
#[derive(Debug)]
pub enum Repair {
    /// A key that is nearly another one.
    Rename(Place, String),
    /// A word that is nearly another one.
    Replace(Place, String),
    /// A key that is not known, or there twice.
    DropKey(Place),
    /// A value that does not fit.
    DropValue(Place),
}

/// What was cut out of a tree.
#[derive(Debug, Default)]
pub struct Holes {
    /// Everything that has a hole in it: a finding there may be the hole's fault.
    places: HashSet<Place>,
    /// Keys that are gone: a finding that names one may be the hole's fault too.
    names: Vec<String>,
}

impl Holes {
    /// Whether a finding says something of what is still there.
    #[must_use]
    pub fn allow(&self, finding: &Diagnostic) -> bool {
        let named = |name: &String| finding.message.contains(&format!("`{name}`"));
        !self.places.contains(&finding.place) && !self.names.iter().any(named)
    }
}

/// The tree with its mistakes of form gone; `None` where nothing would be left.
#[must_use]
pub fn repair(schema: &Value, tree: &Node) -> Option<(Node, Holes)> {
    let mut holes = Holes::default();
    let mut tree = tree.clone();
    for _ in 0..ROUNDS {
        let (_, repairs) = schema::check_and_repair(schema, &tree);
        if repairs.is_empty() {
            return Some((tree, holes));
        }
        tree = apply(tree, &repairs, &mut holes)?.0;
    }
    None
}

/// The repaired node, and whether there is a hole in it.
fn apply(node: Node, repairs: &[Repair], holes: &mut Holes) -> Option<(Node, bool)> {
    let Node { place, kind } = node;
    let dropped = |r: &Repair| matches!(r, Repair::DropValue(at) if *at == place);
    if repairs.iter().any(dropped) {
        return None;
    }
    let mut holed = false;
    let kind = match kind {
        Kind::List(items) => {
            let count = items.len();
            let mut kept = Vec::new();
            for (item, hole) in items.into_iter().filter_map(|i| apply(i, repairs, holes)) {
                holed |= hole;
                kept.push(item);
            }
            holed |= kept.len() < count;
            Kind::List(kept)
        }
        Kind::Map(entries) => {
            let mut kept = Vec::new();
            for (mut key, value) in entries {
                let gone = repairs
                    .iter()
                    .any(|r| matches!(r, Repair::DropKey(at) if *at == key.place));
                let value = if gone {
                    None
                } else {
                    apply(value, repairs, holes)
                };
                let Some((value, hole)) = value else {
                    holed = true;
                    holes.names.push(key.name);
                    continue;
                };
                for repair in repairs {
                    if let Repair::Rename(at, name) = repair
                        && *at == key.place
                    {
                        key.name.clone_from(name);
                    }
                }
                if hole {
                    holed = true;
                    holes.places.insert(key.place);
                }
                kept.push((key, value));
            }
            Kind::Map(kept)
        }
        scalar => repairs
            .iter()
            .find_map(|r| match r {
                Repair::Replace(at, text) if *at == place => Some(Kind::Text(text.clone())),
                _ => None,
            })
            .unwrap_or(scalar),
    };
    if holed {
        holes.places.insert(place);
    }
    Some((Node { place, kind }, holed))
}
