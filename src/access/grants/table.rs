//! tests/permissions/table.toml, row by row: what is written there is what is decided here.

use super::*;

struct Set {
    role: String,
    texts: GrantTexts,
    bindings: Bindings,
    /// Of each topic or filter: what is allowed with it.
    verdicts: Vec<(String, Vec<String>)>,
}

fn sets() -> Vec<Set> {
    let table: toml::Table = include_str!("../../../tests/permissions/table.toml").parse().expect("TOML");
    table["set"]
        .as_array()
        .expect("sets")
        .iter()
        .map(|set| Set::read(set.as_table().expect("a table")))
        .collect()
}

impl Set {
    fn read(set: &toml::Table) -> Set {
        let list = |name: &str| -> Option<Vec<String>> {
            let list = set.get(name)?.as_array().expect("a list");
            Some(list.iter().map(|text| text.as_str().expect("a text").to_owned()).collect())
        };
        let texts = GrantTexts {
            publish: list("publish").unwrap_or_default(),
            subscribe: list("subscribe").unwrap_or_default(),
            history: list("history"),
            presence: list("presence").unwrap_or_default(),
            deny: list("deny").unwrap_or_default(),
        };
        let claims = set.get("claims").and_then(toml::Value::as_table).into_iter().flatten();
        let claims = claims.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)));
        let verdicts = set["verdicts"].as_table().expect("verdicts").iter().map(|(name, verdict)| {
            let allowed = verdict.as_str().expect("names of actions").split_whitespace();
            (name.clone(), allowed.map(str::to_owned).collect())
        });
        Set {
            role: set["role"].as_str().expect("a name").to_owned(),
            bindings: Bindings::new(set["user"].as_str(), claims),
            verdicts: verdicts.collect(),
            texts,
        }
    }

    fn check(&self, rights: Rights<'_>, how: &str) {
        for (name, allowed) in &self.verdicts {
            let is_topic = !name.split('/').any(|level| level == "+" || level == "#");
            for action in Action::ALL {
                let is_allowed = match action {
                    Action::Publish if is_topic => rights.may_publish(name).is_allowed,
                    Action::Publish => continue,
                    action => rights.may(action, name).is_allowed,
                };
                let is_right = is_allowed == allowed.iter().any(|it| it == action.as_str());
                assert!(is_right, "{}, {how}: {} {name} is {is_allowed}", self.role, action.as_str());
            }
        }
    }
}

/// Whoever has it by a role, by a token, or some of it by each.
#[test]
fn every_row_of_the_table_is_decided_as_it_stands_there() {
    let sets = sets();
    let row_count: usize = sets.iter().map(|set| set.verdicts.len()).sum();
    assert!(sets.len() == 15 && row_count == 15 * 42, "{} sets, {row_count} rows", sets.len());
    for set in &sets {
        let parse = |texts: &GrantTexts| Grants::parse(texts).expect("filters");
        let grants = parse(&set.texts);
        let roles = [
            Role {
                name: "other".into(),
                grants: parse(&GrantTexts { publish: vec!["#".into()], ..GrantTexts::default() }),
            },
            Role { name: "all".into(), grants: grants.clone() },
            Role {
                name: "denies".into(),
                grants: parse(&GrantTexts {
                    history: Some(Vec::new()),
                    deny: set.texts.deny.clone(),
                    ..GrantTexts::default()
                }),
            },
        ];
        let rights = |names: &[&str], claimed| Rights {
            roles: &roles,
            has: RoleSet::of(&roles, names.iter().copied()),
            claimed,
            bindings: &set.bindings,
        };
        set.check(rights(&["all"], None), "by a role");
        set.check(rights(&[], Some(&grants)), "by a token");
        let rest = parse(&GrantTexts { deny: Vec::new(), ..set.texts.clone() });
        set.check(rights(&["denies"], Some(&rest)), "by a token, denied by a role");
    }
}
