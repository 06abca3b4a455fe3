//! `fanfare config permissions`: what somebody may do by a configuration, and why.

use std::{path::PathBuf, sync::Arc, time::UNIX_EPOCH};

use clap::{Args, ValueEnum};

use super::{Failure, login::Login, print};
use crate::{
    access::{
        Access,
        grants::{Action, Given, Reason},
        principal::Principal,
    },
    protocol::topic::{Filter, TopicName},
};

/// What `config permissions` takes.
#[derive(Debug, Args)]
pub(super) struct PermissionsArgs {
    /// The TOML file; FANFARE_CONFIG without one.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    login: Login,
    /// In place of a token: the name of somebody.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// And a role; may be repeated.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// What is to be done.
    action: Asked,
    /// With which topic, or all topics of which filter.
    filter: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Asked {
    /// Publish to it.
    Publish,
    /// Receive it.
    Subscribe,
    /// Read its past.
    History,
}

/// Says whether it is allowed, and why; exit code 1 if it is not.
pub(super) fn permissions(args: PermissionsArgs, access: Option<Arc<Access>>) -> Result<(), Failure> {
    let PermissionsArgs { login, user, roles, action, filter, .. } = args;
    let action = match action {
        Asked::Publish => Action::Publish,
        Asked::Subscribe => Action::Subscribe,
        Asked::History => Action::History,
    };
    let checked = match action {
        Action::Publish => TopicName::parse(filter.as_str()).map(|_| ()),
        _ => Filter::parse(filter.as_str()).map(|_| ()),
    };
    checked.map_err(|rule| Failure::Usage(rule.to_string()))?;
    let Some(access) = access else {
        return print("allowed: nobody is asked who they are, and everybody may do everything\n");
    };
    let principal = match (login.token()?, user) {
        (Some(_), Some(_)) => {
            return Err(Failure::Usage("--user is in place of a token: one of them is allowed".into()));
        }
        (Some(token), None) => {
            let now_s = UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
            let found = access.read(&token).and_then(|read| access.prove(read, now_s));
            found.map_err(|why| Failure::Run(format!("the token is not accepted: {}", why.as_str())))?
        }
        (None, Some(user)) => {
            let roles = roles.iter().map(|role| role.as_str().into()).collect();
            Arc::new(Principal::with_static_token(&user, roles, None, [0; 32]))
        }
        (None, None) => access
            .anonymous()
            .cloned()
            .ok_or_else(|| Failure::Run("not allowed: nobody is let in without a token".into()))?,
    };
    let rights = access.rights(&principal, access.roles_of(&principal));
    match rights.explain(action, &filter) {
        Reason::Granted(given) => {
            let given: Vec<String> = given.iter().map(described).collect();
            print(&format!("allowed by {}\n", given.join(", ")))
        }
        Reason::NotGranted(topic) => Err(Failure::Run(format!("not allowed: nothing grants {topic}"))),
        Reason::Denied(given) => Err(Failure::Run(format!("not allowed: denied by {}", described(&given)))),
    }
}

fn described(Given { role, filter }: &Given) -> String {
    match role {
        Some(role) => format!("{filter} of the role {role}"),
        None => format!("{filter} of the token"),
    }
}
