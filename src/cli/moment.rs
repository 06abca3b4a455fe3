//! A place in the past of all topics that a filter matches, as `--since` has it.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::protocol::command::{At, LISTED_MAX};

/// What a subscriber has of the topics that a filter matches: all up to a moment of the broker, and more of some of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Moment {
    /// As the last `replayed` told it.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    /// What came after that: by the epoch of its numbering, the highest `seq` of each topic.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    epochs: BTreeMap<String, BTreeMap<String, u64>>,
    /// Of more topics something came than may be listed: they are known by `at` alone.
    #[serde(skip)]
    has_more: bool,
}

impl Moment {
    /// The moment that `replayed` told.
    pub fn told(at: &str) -> Moment {
        Moment { at: Some(at.to_owned()), ..Moment::default() }
    }

    /// Goes on to this `seq` of a topic.
    pub fn advance(&mut self, epoch: &str, topic: &str, seq: u64) {
        if let Some(known) = self.epochs.get_mut(epoch).and_then(|listed| listed.get_mut(topic)) {
            *known = seq.max(*known);
        } else if self.listed_count() < LISTED_MAX {
            self.epochs.entry(epoch.to_owned()).or_default().insert(topic.to_owned(), seq);
        } else {
            self.has_more = true;
        }
    }

    fn listed_count(&self) -> usize {
        self.epochs.values().map(BTreeMap::len).sum()
    }

    /// The moment to come back to, if there is one.
    pub fn at(&self) -> Option<&str> {
        self.at.as_deref()
    }

    /// Whether some of what came comes again to whoever comes back to it.
    pub fn is_rough(&self) -> bool {
        self.has_more
    }

    /// As a command has it; none if there is nothing to say.
    pub fn to_json(&self) -> Option<String> {
        let says_something = self.at.is_some() || !self.epochs.is_empty();
        says_something.then(|| serde_json::to_string(self).expect("strings and numbers are JSON"))
    }
}

impl fmt::Display for Moment {
    /// As one word of a shell's line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) if self.epochs.is_empty() => f.write_str(at),
            // Between a shell's quotes nothing stands for anything else but the quote that ends them.
            _ => write!(f, "'{}'", self.to_json().unwrap_or_default().replace('\'', r"\u0027")),
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Moment, String> {
        let moment = match text.starts_with('{') {
            true => serde_json::from_str(text).unwrap_or_default(),
            false => Moment::told(text),
        };
        let is_told = moment.at.as_deref().is_some_and(|at| At::parse(at).is_some());
        if is_told && moment.listed_count() <= LISTED_MAX {
            return Ok(moment);
        }
        Err("for a filter it must be what `next:` said at the end, such as 01473d6923fbdb87.2 or \
             '{\"at\":\"01473d6923fbdb87.2\",\"epochs\":{\"01473d6923fbdb87\":{\"ticker/a\":3}}}'"
            .to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: &str = "01473d6923fbdb87";

    fn told() -> Moment {
        Moment::told("01473d6923fbdb87.2.1f")
    }

    #[test]
    fn a_moment_is_read_as_it_is_told() {
        assert_eq!(told().to_string(), "01473d6923fbdb87.2.1f");
        assert_eq!("01473d6923fbdb87.2.1f".parse(), Ok(told()));
        assert_eq!(told().to_json().unwrap(), r#"{"at":"01473d6923fbdb87.2.1f"}"#);
        let mut moment = told();
        for (topic, seq) in [("ticker/a", 3), ("it's", 1), ("ticker/a", 4), ("ticker/a", 2)] {
            moment.advance(EPOCH, topic, seq);
        }
        let listed =
            r#"{"at":"01473d6923fbdb87.2.1f","epochs":{"01473d6923fbdb87":{"it\u0027s":1,"ticker/a":4}}}"#;
        assert_eq!(moment.to_string(), format!("'{listed}'"));
        assert_eq!(listed.parse(), Ok(moment.clone()));
        assert_eq!(moment.to_json().unwrap(), listed.replace(r"\u0027", "'"));
    }

    #[test]
    fn before_the_first_moment_only_what_came_can_be_said() {
        let mut moment = Moment::default();
        assert_eq!((moment.to_json(), moment.at()), (None, None));
        moment.advance(EPOCH, "a", 7);
        assert_eq!(moment.to_json().unwrap(), r#"{"epochs":{"01473d6923fbdb87":{"a":7}}}"#);
        assert_eq!((moment.at(), told().at()), (None, Some("01473d6923fbdb87.2.1f")));
    }

    #[test]
    fn no_more_is_listed_than_a_broker_takes() {
        let mut moment = told();
        for topic in 0..LISTED_MAX {
            moment.advance(EPOCH, &topic.to_string(), 1);
        }
        assert!(!moment.is_rough());
        assert_eq!(moment.to_string().trim_matches('\'').parse(), Ok(moment.clone()));
        moment.advance("00000000000000ff", "one more", 1);
        assert!(moment.is_rough() && moment.listed_count() == LISTED_MAX);
        moment.advance(EPOCH, "0", 2);
        assert!(moment.to_json().unwrap().contains(r#""0":2"#));
    }

    #[test]
    fn what_is_no_moment_is_refused_with_what_is() {
        let mut many = told();
        (0..=LISTED_MAX).for_each(|topic| {
            many.epochs.entry(EPOCH.to_owned()).or_default().insert(topic.to_string(), 1);
        });
        let many = many.to_json().unwrap();
        for text in [
            "",
            "2",
            "01473d6923fbdb87",
            "01473d6923fbdb87.",
            "01473d6923fbdb87.x",
            "1473d6923fbdb87.2",
            "{",
            "{}",
            r#"{"at":"2"}"#,
            r#"{"epochs":{"01473d6923fbdb87":{"a":7}}}"#,
            r#"{"at":"01473d6923fbdb87.2","topics":{}}"#,
            r#"{"at":"01473d6923fbdb87.2","epochs":{"01473d6923fbdb87":{"a":-1}}}"#,
            &many,
        ] {
            let error = text.parse::<Moment>().unwrap_err();
            assert!(
                error.starts_with("for a filter it must be what `next:` said at the end"),
                "{text}: {error}"
            );
        }
    }
}
