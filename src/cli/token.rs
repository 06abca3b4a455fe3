//! `fanfare token`: static tokens.

use clap::{Args, Subcommand};
use rustix::rand::{GetRandomFlags, getrandom};

use super::{Failure, print, tell};
use crate::{
    access::{principal, static_token},
    protocol::tenant,
};

/// What there is to do with static tokens.
#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token: the token itself goes to stderr, once, and what the broker keeps of it to stdout.
    ///
    /// Append what goes to stdout to the file that auth.tokens_file names, and have the broker read it with SIGHUP.
    New(NewArgs),
}

/// What `token new` takes.
#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// Who brings it: the name that {user} in grants stands for.
    #[arg(long, value_name = "NAME")]
    user: String,
    /// What whoever brings it may do: one of the roles of the configuration, or read or write for an operator; may be repeated.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// Of which tenant of the configuration whoever brings it is.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
}

/// Makes a token.
pub(super) fn token(TokenCommand::New(NewArgs { user, roles, tenant }): TokenCommand) -> Result<(), Failure> {
    if !principal::is_name(&user) {
        return Err(Failure::Usage(format!("--user must be {}", principal::NAME_ALLOWED)));
    }
    if tenant.as_deref().is_some_and(|name| !tenant::is_name(name)) {
        return Err(Failure::Usage(format!("--tenant must be {}", tenant::TENANT_ALLOWED)));
    }
    let mut random = [0; 32];
    let filled = getrandom(&mut random, GetRandomFlags::empty());
    if filled != Ok(random.len()) {
        return Err(Failure::Run(format!("the kernel gave no random bytes: {filled:?}")));
    }
    let token = static_token::from_random(&random);
    let digest = static_token::digest(&token).expect("what was made is a token");
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let (user, roles) = (toml::Value::from(user), toml::Value::from(roles));
    let tenant = tenant.map_or(String::new(), |name| format!("tenant = \"{name}\"\n"));
    print(&format!("[[token]]\nsha256 = \"{digest}\"\nuser = {user}\nroles = {roles}\n{tenant}"))?;
    tell(format_args!("the token, which is not shown again: {token}"));
    Ok(())
}
