//! Part of stage 6, policy: what a service that was asked wants changed in the fields of a request or
//! of its response.

use crate::message::Fields;

/// What is done with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Added to what is there.
    Append,
    /// Added where nothing is.
    AddIfAbsent,
    /// Takes the place of what is there, or is added.
    Set,
    /// Takes the place of what is there.
    SetIfThere,
    /// Removed.
    Remove,
}

/// One change. Name and value have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What is done.
    pub action: Action,
    /// With which field.
    pub name: String,
    /// Its value.
    pub value: Box<[u8]>,
}

impl Change {
    /// Carries it out. Other spellings of a name go with it: applications behind CGI read them as one.
    pub fn apply(&self, fields: &mut Fields) {
        let name = self.name.as_bytes();
        let there = fields.named(&self.name).is_some();
        match self.action {
            Action::AddIfAbsent if there => return,
            Action::SetIfThere if !there => return,
            Action::Append | Action::AddIfAbsent => {}
            Action::Set | Action::SetIfThere | Action::Remove => fields.remove_alike(name),
        }
        if self.action != Action::Remove {
            fields.append(name, &self.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_action_does_what_it_says() {
        for (action, there, absent) in [
            (Action::Append, "1,2", "2"),
            (Action::AddIfAbsent, "1", "2"),
            (Action::Set, "2", "2"),
            (Action::SetIfThere, "2", ""),
            (Action::Remove, "", ""),
        ] {
            for (begins, want) in [(true, there), (false, absent)] {
                let mut fields = Fields::new();
                if begins {
                    fields.append(b"x-a", b"1");
                }
                let change = Change {
                    action,
                    name: "X-A".to_owned(),
                    value: (*b"2").into(),
                };
                change.apply(&mut fields);
                let values: Vec<_> = fields.iter().map(|f| f.value).collect();
                assert_eq!(values.join(&b','), want.as_bytes(), "{action:?} {begins}");
            }
        }
    }
}
