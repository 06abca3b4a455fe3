//! Whether the values of a configuration go together, each of which is allowed by itself.

use super::{
    Config, ListenAddress,
    load::{ConfigError, admin_reachable, reachable},
};

/// What no key can see by itself.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let (message, owed) = (config.limits.message_bytes_max, config.delivery.owed_bytes_max);
    let longest = longest_delivery_bytes(message);
    if longest > owed {
        return Err(ConfigError(format!(
            "limits.message_bytes_max = {message} is not allowed with delivery.owed_bytes_max = {owed}: \
             a connection must be able to be owed one whole message, which may be {longest} bytes as JSON"
        )));
    }
    let log = config.limits.log_bytes_max;
    if message > log / 4 {
        return Err(ConfigError(format!(
            "limits.message_bytes_max = {message} is not allowed with limits.log_bytes_max = {log}: \
             a message on its way to another reactor counts there, and may be a quarter of it"
        )));
    }
    match &config.listen.address {
        ListenAddress::Tcp(listen) => {
            let admin =
                config.admin.address.filter(|admin| admin.port() == listen.port() && admin.port() != 0);
            if let Some(admin) = admin
                && (admin.ip() == listen.ip() || admin.ip().is_unspecified() || listen.ip().is_unspecified())
            {
                return Err(ConfigError(format!(
                    "admin.address = \"{admin}\" is not allowed with listen.address = \"{listen}\": \
                     clients and the operator need ports of their own"
                )));
            }
        }
        ListenAddress::Unix(path) => {
            if config.control.socket.as_ref() == Some(path) {
                let path = path.display();
                return Err(ConfigError(format!(
                    "control.socket = \"{path}\" is not allowed with listen.address = \"unix:{path}\": \
                     clients and a successor need sockets of their own"
                )));
            }
        }
    }
    if !config.listen.address.is_local() && !config.listen.insecure && !config.auth.is_on() {
        return Err(ConfigError(reachable(&config.listen.address)));
    }
    if let Some(address) = config.admin.address.filter(|address| !address.ip().to_canonical().is_loopback())
        && !config.listen.insecure
        && config.admin.tokens_file.is_none()
    {
        return Err(ConfigError(admin_reachable(address)));
    }
    let proxy = &config.proxy;
    if proxy.trusted.is_empty() {
        let asked = [("protocol", proxy.protocol.as_str()), ("header", proxy.header.as_str())];
        if let Some((key, value)) = asked.into_iter().find(|(_, value)| *value != "none") {
            return Err(ConfigError(format!(
                "proxy.{key} = \"{value}\" is not allowed without proxy.trusted: nobody's word about an address would count"
            )));
        }
    }
    if let Some(path) = config.auth.revocations_file.as_ref().filter(|path| !path.is_absolute()) {
        return Err(ConfigError(format!(
            "auth.revocations_file = \"{}\" is not allowed: it must be an absolute path, since the broker writes to it",
            path.display()
        )));
    }
    check_anonymous(config)?;
    check_roles(config)?;
    check_tenants(config)
}

/// Whether somebody may publish to topics to which nobody does without a name.
fn check_anonymous(config: &Config) -> Result<(), ConfigError> {
    let has_names = config.auth.tokens_file.is_some() || !config.auth.issuers.is_empty();
    match config.topic.iter().find(|policy| !has_names && policy.anonymous == Some(false)) {
        Some(policy) => Err(ConfigError(format!(
            "topic.anonymous = false, of match = {}, is not allowed without auth.tokens_file or auth.issuers: nobody has a name, and \
             nobody could publish there",
            toml::Value::from(policy.filter.as_str())
        ))),
        None => Ok(()),
    }
}

/// Whether whoever is given a role is given one that there is, and roles are given to somebody.
fn check_roles(config: &Config) -> Result<(), ConfigError> {
    let names: Vec<&str> = config.roles.iter().map(|role| role.name.as_str()).collect();
    if let (false, [name, ..]) = (config.auth.is_on(), &names[..]) {
        return Err(ConfigError(format!(
            "roles.{name} is not allowed without auth.tokens_file, auth.issuers or auth.anonymous_roles: nobody is asked who they are, and \
             everybody may do everything"
        )));
    }
    let given = config.auth.anonymous_roles.iter().map(|name| ("auth.anonymous_roles", name));
    let of_issuers = config.auth.issuers.iter().flat_map(|issuer| &issuer.roles);
    let mut given = given.chain(of_issuers.map(|name| ("auth.issuers.roles", name)));
    match given.find(|(_, name)| !names.contains(&name.as_str())) {
        Some((key, name)) => Err(ConfigError(format!(
            "{key} = \"{name}\" is not allowed: it must be the name of a table in [roles]"
        ))),
        None => Ok(()),
    }
}

/// Whether issuers are of tenants that there are, and somebody can be of one.
fn check_tenants(config: &Config) -> Result<(), ConfigError> {
    if let (false, [tenant, ..]) = (config.auth.is_on(), &config.tenants[..]) {
        return Err(ConfigError(format!(
            "tenants.{} is not allowed without auth.tokens_file, auth.issuers or auth.anonymous_roles: nobody is asked who they are, and \
             all are of none",
            tenant.name
        )));
    }
    let is_known = |name: &str| config.tenants.iter().any(|tenant| tenant.name == name);
    let named = config.auth.issuers.iter().map(|issuer| issuer.tenant.as_str());
    match named.into_iter().find(|name| !name.is_empty() && !is_known(name)) {
        Some(name) => Err(ConfigError(format!(
            "auth.issuers.tenant = \"{name}\" is not allowed: it must be the name of a table in [tenants]"
        ))),
        None => Ok(()),
    }
}

/// What a message of `message_bytes` becomes at most when it is delivered: base64 of its payload, between names, of which
/// each byte may be written as six, and numbers.
fn longest_delivery_bytes(message_bytes: usize) -> usize {
    message_bytes.div_ceil(3) * 4 + 2_560
}
