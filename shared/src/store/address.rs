//! Where a Redis server listens, and what the configured URLs say about it.

use std::path::PathBuf;

use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};
use secrecy::{ExposeSecret, SecretString};

use crate::config::ConfigError;

/// The address of one server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Address {
    /// A TCP port. With `tls`, the server must prove that it is `host`.
    Tcp { host: String, port: u16, tls: bool },
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Returns the address of another server that this one has named. An empty host means this server's own host, as
    /// the cluster specification requires. The connection to the other server is protected as the one to this server.
    pub(super) fn neighbour(&self, named: &str, named_port: u16) -> Option<Self> {
        let Self::Tcp { host, tls, .. } = self else {
            return None;
        };
        let host = if named.is_empty() || named == "0.0.0.0" || named == "::" {
            host.clone()
        } else {
            named.to_owned()
        };
        Some(Self::Tcp {
            host,
            port: named_port,
            tls: *tls,
        })
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp { tls: true, .. })
    }
}

/// What `REDIS_URL` says: the addresses of all its URLs, and the database, user and password of the first.
pub(super) struct Urls {
    pub(super) addresses: Vec<Address>,
    pub(super) login: RedisConnectionInfo,
}

impl Urls {
    /// Returns the parsed URLs.
    ///
    /// # Errors
    /// A URL is not valid. The error never contains the URL, which may hold a password.
    pub(super) fn parse(urls: &[SecretString]) -> Result<Self, ConfigError> {
        let mut addresses = Vec::with_capacity(urls.len());
        let mut login = None;
        for url in urls {
            let (address, of_url) = parse(url.expose_secret())?;
            addresses.push(address);
            login.get_or_insert(of_url);
        }
        Ok(Self {
            login: login.ok_or_else(|| bad_url("there is no URL"))?,
            addresses,
        })
    }
}

fn parse(url: &str) -> Result<(Address, RedisConnectionInfo), ConfigError> {
    let (plain, tls) = match url.strip_prefix("rediss://") {
        // The client parses TLS URLs only if it makes the connections itself.
        Some(rest) => (format!("redis://{rest}"), true),
        None => (url.to_owned(), false),
    };
    if plain.contains('#') {
        return Err(bad_url("a fragment is not supported"));
    }
    let info = plain
        .into_connection_info()
        .map_err(|error| bad_url(error.category()))?;
    let address = match info.addr() {
        ConnectionAddr::Tcp(host, port) => Address::Tcp {
            host: host.clone(),
            port: *port,
            tls,
        },
        ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
        _ => return Err(bad_url("unknown kind of address")),
    };
    Ok((address, info.redis_settings().clone()))
}

fn bad_url(problem: &str) -> ConfigError {
    ConfigError::new("REDIS_URL", format!("cannot be used ({problem})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(urls: &[&str]) -> Result<Urls, ConfigError> {
        let urls: Vec<SecretString> = urls.iter().map(|url| SecretString::from(*url)).collect();
        Urls::parse(&urls)
    }

    #[test]
    fn every_form_of_url_is_read() {
        let found =
            urls(&["rediss://user:secret@cache.example/3", "redis://[::1]:7000"]).expect("valid");
        assert_eq!(
            found.addresses,
            [
                Address::Tcp {
                    host: "cache.example".into(),
                    port: 6379,
                    tls: true
                },
                Address::Tcp {
                    host: "::1".into(),
                    port: 7000,
                    tls: false
                },
            ]
        );
        assert_eq!(
            (found.login.db(), found.login.username()),
            (3, Some("user"))
        );
        let socket = urls(&["redis+unix:///run/redis.sock?db=2"]).expect("valid");
        assert_eq!(socket.addresses, [Address::Unix("/run/redis.sock".into())]);
        for bad in ["redis://", "rediss://cache.example/#insecure"] {
            let error = urls(&[bad]).err().expect("refused").to_string();
            assert!(!error.contains("cache.example"), "{error}");
        }
    }

    #[test]
    fn a_named_server_without_a_host_is_on_the_same_host() {
        let one = Address::Tcp {
            host: "a".into(),
            port: 1,
            tls: true,
        };
        let other = Address::Tcp {
            host: "a".into(),
            port: 2,
            tls: true,
        };
        assert_eq!(one.neighbour("", 2), Some(other));
        assert_eq!(Address::Unix("/x".into()).neighbour("b", 2), None);
    }
}
