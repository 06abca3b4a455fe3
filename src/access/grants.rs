//! What clients may do: lists of filters for each action, in the operator's roles and in clients' tokens.

use super::pattern::{self, Bindings, Pattern, PatternRule};

#[cfg(test)]
mod table;

/// The most roles that there are.
pub const ROLES_MAX: usize = 64;

/// What is done with a topic, or with all that a filter matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To publish to it.
    Publish,
    /// To receive what is published from now on.
    Subscribe,
    /// To be told what was published before.
    History,
    /// To be told who is subscribed.
    Presence,
}

impl Action {
    /// Every action, in order of its index.
    pub const ALL: [Action; 4] = [Action::Publish, Action::Subscribe, Action::History, Action::Presence];

    /// The length of a table with an entry for each.
    pub const COUNT: usize = Self::ALL.len();

    /// The name in configurations, tokens, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Publish => "publish",
            Action::Subscribe => "subscribe",
            Action::History => "history",
            Action::Presence => "presence",
        }
    }
}

/// The lists of a role or a token. What is in none of them is not allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    publish: Box<[Pattern]>,
    subscribe: Box<[Pattern]>,
    /// None: what `subscribe` has.
    history: Option<Box<[Pattern]>>,
    presence: Box<[Pattern]>,
    /// Nothing that one of these matches is allowed, whatever is granted, here or elsewhere.
    deny: Box<[Pattern]>,
}

/// The same as they are written: filters, of which whole levels may be `{user}` or `{claim.NAME}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantTexts {
    /// Topics to publish to.
    pub publish: Vec<String>,
    /// Topics to receive.
    pub subscribe: Vec<String>,
    /// Topics whose past may be read; those of `subscribe` if it is not there.
    pub history: Option<Vec<String>>,
    /// Topics whose subscribers may be known.
    pub presence: Vec<String>,
    /// Topics with which nothing may be done.
    pub deny: Vec<String>,
}

/// A text that is no filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadGrant {
    /// In which list: `deny` or an action's name.
    pub list: &'static str,
    /// Where in it.
    pub index: usize,
    /// What it breaks.
    pub rule: PatternRule,
}

/// A role of the operator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// As tokens name it.
    pub name: Box<str>,
    /// What whoever has it may do.
    pub grants: Grants,
}

/// Which roles of a table somebody has, a bit each: at most [`ROLES_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoleSet(u64);

/// What one client may do as it stands: what its roles grant, what its token grants, and nothing that any of them denies.
#[derive(Clone, Copy, Debug)]
pub struct Rights<'a> {
    /// All roles.
    pub roles: &'a [Role],
    /// Which of them are the client's.
    pub has: RoleSet,
    /// What its token grants.
    pub claimed: Option<&'a Grants>,
    /// What stands in templates' places.
    pub bindings: &'a Bindings,
}

/// Whether something is allowed, and how many times a pattern was held against something to know that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It is.
    pub is_allowed: bool,
    /// What it took.
    pub held_count: u32,
}

/// Why something is allowed or not, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// These grants are of it, all or some of it each.
    Granted(Vec<Given>),
    /// Nothing grants this topic, which is of it.
    NotGranted(String),
    /// It is granted, and this denies some of it.
    Denied(Given),
}

/// A filter, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The role that has it; none: the token itself.
    pub role: Option<Box<str>>,
    /// As it was written.
    pub filter: String,
}

impl Grants {
    /// Reads the filters.
    ///
    /// # Errors
    /// The first text that is none.
    pub fn parse(texts: &GrantTexts) -> Result<Grants, BadGrant> {
        let list = |list, texts: &[String]| {
            let patterns = texts
                .iter()
                .enumerate()
                .map(|(index, text)| Pattern::parse(text).map_err(|rule| BadGrant { list, index, rule }));
            patterns.collect::<Result<Box<[Pattern]>, BadGrant>>()
        };
        Ok(Grants {
            publish: list(Action::Publish.as_str(), &texts.publish)?,
            subscribe: list(Action::Subscribe.as_str(), &texts.subscribe)?,
            history: texts.history.as_ref().map(|it| list(Action::History.as_str(), it)).transpose()?,
            presence: list(Action::Presence.as_str(), &texts.presence)?,
            deny: list("deny", &texts.deny)?,
        })
    }

    /// The claims that its templates name.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        let lists = [&self.publish, &self.subscribe, &self.presence, &self.deny];
        let patterns = lists.into_iter().chain(&self.history).flat_map(|list| list.iter());
        patterns.flat_map(Pattern::claims)
    }

    fn of(&self, action: Action) -> &[Pattern] {
        match action {
            Action::Publish => &self.publish,
            Action::Subscribe => &self.subscribe,
            Action::History => self.history.as_deref().unwrap_or(&self.subscribe),
            Action::Presence => &self.presence,
        }
    }
}

impl RoleSet {
    /// Those of `roles` that are named; a name that none of them has gives nothing.
    pub fn of<'a>(roles: &[Role], names: impl IntoIterator<Item = &'a str>) -> RoleSet {
        let place = |name: &str| roles.iter().position(|role| *role.name == *name);
        RoleSet(names.into_iter().filter_map(place).fold(0, |set, place| set | 1 << place))
    }

    fn iter(self) -> impl Iterator<Item = usize> + Clone {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let place = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(place)
        })
    }
}

impl<'a> Rights<'a> {
    /// Whether a publish to this topic is allowed.
    pub fn may_publish(self, topic: &str) -> Verdict {
        let mut held_count = 0;
        let mut matches = |pattern: &Pattern| {
            held_count += 1;
            pattern.matches(topic, self.bindings)
        };
        let is_granted = self.grants().any(|grants| grants.of(Action::Publish).iter().any(&mut matches));
        let is_denied = is_granted && self.grants().any(|grants| grants.deny.iter().any(&mut matches));
        Verdict { is_allowed: is_granted && !is_denied, held_count }
    }

    /// Whether `action` is allowed with all that this filter matches: what is allowed in part is not.
    pub fn may(self, action: Action, filter: &str) -> Verdict {
        let patterns = self.grants().flat_map(move |grants| grants.of(action));
        let (is_granted, mut held_count) = pattern::covers(patterns, filter, self.bindings);
        let mut overlaps = |pattern: &Pattern| {
            held_count += 1;
            pattern.overlaps(filter, self.bindings)
        };
        let is_denied = is_granted && self.grants().any(|grants| grants.deny.iter().any(&mut overlaps));
        Verdict { is_allowed: is_granted && !is_denied, held_count }
    }

    /// Why `action` is allowed or not with all that this filter matches.
    pub fn explain(self, action: Action, filter: &str) -> Reason {
        let given = |(role, pattern): (Option<&str>, &Pattern)| Given {
            role: role.map(Into::into),
            filter: pattern.to_string(),
        };
        let patterns = self.grants().flat_map(move |grants| grants.of(action));
        if let Some(topic) = pattern::uncovered(patterns, filter, self.bindings) {
            return Reason::NotGranted(topic);
        }
        let concerned = |list: fn(&'a Grants, Action) -> &'a [Pattern]| {
            let patterns = self
                .owned()
                .flat_map(move |(role, grants)| list(grants, action).iter().map(move |it| (role, it)));
            patterns.filter(move |(_, pattern)| pattern.overlaps(filter, self.bindings)).map(given)
        };
        match concerned(|grants, _| &grants.deny).next() {
            Some(denied) => Reason::Denied(denied),
            None => Reason::Granted(concerned(Grants::of).collect()),
        }
    }

    /// Grants with the role whose they are.
    fn owned(self) -> impl Iterator<Item = (Option<&'a str>, &'a Grants)> {
        let roles = self.has.iter().map(move |place| &self.roles[place]);
        let roles = roles.map(|role| (Some(&*role.name), &role.grants));
        self.claimed.into_iter().map(|grants| (None, grants)).chain(roles)
    }

    fn grants(self) -> impl Iterator<Item = &'a Grants> + Clone {
        self.claimed.into_iter().chain(self.has.iter().map(move |place| &self.roles[place].grants))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(filters: &[&str]) -> Vec<String> {
        filters.iter().map(|it| (*it).into()).collect()
    }

    fn grants(texts: GrantTexts) -> Grants {
        Grants::parse(&texts).expect("filters")
    }

    fn role(name: &str, grants: Grants) -> Role {
        Role { name: name.into(), grants }
    }

    #[test]
    fn what_roles_and_a_token_grant_is_together_and_what_one_denies_is_denied() {
        let roles = [
            role("in", grants(GrantTexts { publish: texts(&["room/+/in"]), ..GrantTexts::default() })),
            role("all", grants(GrantTexts { publish: texts(&["#"]), ..GrantTexts::default() })),
            role("out", grants(GrantTexts { deny: texts(&["room/staff/#"]), ..GrantTexts::default() })),
        ];
        let claimed = grants(GrantTexts { publish: texts(&["own/{user}"]), ..GrantTexts::default() });
        let bindings = Bindings::new(Some("bob"), []);
        let may = |names: &[&str], claimed: Option<&Grants>, topic: &str| {
            let has = RoleSet::of(&roles, names.iter().copied());
            Rights { roles: &roles, has, claimed, bindings: &bindings }.may_publish(topic).is_allowed
        };
        assert!(may(&["in"], None, "room/1/in") && !may(&["in"], None, "room/1/out"));
        assert!(may(&["in", "all"], None, "room/1/out"));
        assert!(!may(&["in", "all", "out"], None, "room/staff/in"));
        assert!(may(&["in", "all", "out"], None, "room/1/in"));
        assert!(may(&[], Some(&claimed), "own/bob") && !may(&[], Some(&claimed), "own/eve"));
        assert!(!may(&["out"], None, "x") && !may(&["nobody"], None, "room/1/in") && !may(&[], None, "x"));
    }

    #[test]
    fn a_filter_is_read_only_if_none_of_what_it_matches_is_denied() {
        let given = grants(GrantTexts {
            subscribe: texts(&["#"]),
            deny: texts(&["x/#"]),
            presence: texts(&["room/+"]),
            ..GrantTexts::default()
        });
        let rights = Rights {
            roles: &[],
            has: RoleSet::default(),
            claimed: Some(&given),
            bindings: &Bindings::default(),
        };
        for (filter, is_ours) in [("#", false), ("+/1", false), ("x", false), ("y/#", true), ("x/1", false)] {
            assert_eq!(rights.may(Action::Subscribe, filter).is_allowed, is_ours, "{filter}");
            // Nothing is said of history.
            assert_eq!(rights.may(Action::History, filter).is_allowed, is_ours, "{filter}");
        }
        assert!(rights.may(Action::Presence, "room/+").is_allowed);
        assert!(!rights.may(Action::Presence, "room/#").is_allowed && !rights.may_publish("y").is_allowed);
        let without_past = Grants { history: Some(Box::default()), ..given.clone() };
        let rights = Rights { claimed: Some(&without_past), ..rights };
        assert!(
            !rights.may(Action::History, "y/#").is_allowed && rights.may(Action::Subscribe, "y/#").is_allowed
        );
    }

    #[test]
    fn a_text_that_is_no_filter_is_told_by_its_place() {
        let bad = GrantTexts { deny: texts(&["a", "b/#/c"]), ..GrantTexts::default() };
        let BadGrant { list, index, rule } = Grants::parse(&bad).expect_err("no filter");
        assert_eq!((list, index), ("deny", 1));
        assert!(matches!(rule, PatternRule::Filter(_)));
    }

    #[test]
    fn as_many_roles_as_there_may_be_are_told_apart() {
        let names: Vec<String> = (0..ROLES_MAX).map(|n| n.to_string()).collect();
        let of =
            |topic: &String| grants(GrantTexts { publish: vec![topic.clone()], ..GrantTexts::default() });
        let roles: Vec<Role> = names.iter().map(|name| role(name, of(name))).collect();
        for asked in &names {
            let has = RoleSet::of(&roles, [asked.as_str()]);
            let rights = Rights { roles: &roles, has, claimed: None, bindings: &Bindings::default() };
            assert!(names.iter().all(|topic| rights.may_publish(topic).is_allowed == (topic == asked)));
        }
    }
}
