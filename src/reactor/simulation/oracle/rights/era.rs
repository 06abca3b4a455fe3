//! What one configuration grants, decided anew and by going through topics one by one.

use crate::{
    access::grants::{Action, GrantTexts},
    reactor::simulation::oracle::policy::matches,
};

/// All levels that filters of these worlds name, and one that none does.
const LEVELS: [&str; 8] = ["a", "b", "own", "x", "y", "bob", "eve", "z"];

/// Somebody who may come, whether or not they are let in.
#[derive(Clone, Debug)]
pub struct Person {
    pub token: String,
    pub user: Option<String>,
    pub whose: Whose,
    /// When the token ends, in milliseconds from the world's beginning.
    pub ends_ms: Option<u64>,
}

/// What vouches for somebody.
#[derive(Clone, Debug)]
pub enum Whose {
    Anonymous,
    /// An entry in the file of tokens, by its place.
    Static(usize),
    /// The issuer, and what the token says.
    Issuer {
        roles: Vec<usize>,
        grants: Box<GrantTexts>,
    },
    /// Nothing that any configuration accepts.
    Nobody,
}

/// What one configuration says of who may do what; roles by their places.
#[derive(Clone, Debug)]
pub struct Era {
    pub roles: Vec<GrantTexts>,
    pub anonymous: Option<Vec<usize>>,
    pub statics: Vec<Option<Vec<usize>>>,
    pub issuer: Option<Vec<usize>>,
    /// Nobody publishes to topics of this filter without a name.
    pub named_only: Option<String>,
}

impl Era {
    /// The roles of somebody; none if nothing vouches for them.
    pub fn roles_of(&self, person: &Person) -> Option<Vec<usize>> {
        match &person.whose {
            Whose::Anonymous => self.anonymous.clone(),
            Whose::Static(place) => self.statics[*place].clone(),
            Whose::Issuer { roles, .. } => Some([self.issuer.as_ref()?, &roles[..]].concat()),
            Whose::Nobody => None,
        }
    }

    pub fn may(&self, person: &Person, action: Action, filter: &str) -> bool {
        let Some(roles) = self.roles_of(person) else { return false };
        let is_named_only = self.named_only.as_ref().is_some_and(|named_only| matches(named_only, filter));
        if action == Action::Publish && person.user.is_none() && is_named_only {
            return false;
        }
        let own = match &person.whose {
            Whose::Issuer { grants, .. } => Some(&**grants),
            _ => None,
        };
        let lists: Vec<&GrantTexts> = roles.iter().map(|role| &self.roles[*role]).chain(own).collect();
        let bind = |filter: &String| match &person.user {
            Some(user) => Some(filter.replace("{user}", user)),
            None => (!filter.contains("{user}")).then(|| filter.clone()),
        };
        let granted = lists.iter().flat_map(|lists| match action {
            Action::Publish => &lists.publish,
            Action::Subscribe => &lists.subscribe,
            Action::History => lists.history.as_ref().unwrap_or(&lists.subscribe),
            Action::Presence => &lists.presence,
        });
        let granted: Vec<String> = granted.filter_map(bind).collect();
        let denied: Vec<String> = lists.iter().flat_map(|lists| &lists.deny).filter_map(bind).collect();
        let is_in = |topic: &str, filters: &[String]| filters.iter().any(|filter| matches(filter, topic));
        let mut asked = topics().filter(|topic| matches(filter, topic));
        asked.all(|topic| is_in(&topic, &granted) && !is_in(&topic, &denied))
    }
}

/// Topics that stand for all that there could be: no filter of these worlds has more than two levels before a `#`.
fn topics() -> impl Iterator<Item = String> {
    let pairs = LEVELS.iter().flat_map(|first| LEVELS.iter().map(move |second| format!("{first}/{second}")));
    let ones = LEVELS.iter().map(|level| (*level).to_owned());
    ones.chain(pairs.flat_map(|pair| [format!("{pair}/z"), pair]))
}
