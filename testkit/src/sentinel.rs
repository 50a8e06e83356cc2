//! A real Redis master with two replicas and three sentinels, all killed on drop.

use std::time::{Duration, Instant};

use ::redis::{Client, FromRedisValue, RedisResult};

use crate::proxy::Proxy;
use crate::redis::Server;

/// The time that the servers may take to agree: on discovery, replication or a failover.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// The name under which the sentinels monitor the master.
pub const MASTER: &str = "mymaster";

/// A running master with two replicas and three sentinels.
pub struct Sentinels {
    nodes: Vec<Server>,
    /// One in front of each node; empty if clients reach the nodes directly.
    proxies: Vec<Proxy>,
    sentinels: Vec<Server>,
    password: Option<String>,
    sentinel_password: Option<String>,
}

impl Sentinels {
    /// Starts the servers without passwords and waits until they know each other.
    pub async fn start() -> Self {
        Self::start_with(None, None).await
    }

    /// Starts the servers with a password for the data nodes, for the sentinels, for both or for neither.
    ///
    /// # Panics
    /// If the servers do not find each other in time.
    pub async fn start_with(password: Option<&str>, sentinel_password: Option<&str>) -> Self {
        Self::start_all(password, sentinel_password, [0; 3], Vec::new()).await
    }

    /// Starts the servers without passwords, with wall clocks that are ahead of the machine's by these milliseconds, and
    /// with a proxy in front of each. The servers announce the ports of their proxies, so clients, replicas and sentinels
    /// use these, and so do the other methods.
    ///
    /// # Panics
    /// If the servers do not find each other in time.
    pub async fn start_behind_proxies(ahead_ms: [i64; 3]) -> Self {
        let mut proxies = Vec::new();
        for _ in ahead_ms {
            proxies.push(Proxy::start(0).await);
        }
        Self::start_all(None, None, ahead_ms, proxies).await
    }

    async fn start_all(
        password: Option<&str>,
        sentinel_password: Option<&str>,
        ahead_ms: [i64; 3],
        proxies: Vec<Proxy>,
    ) -> Self {
        let login = |password: Option<&str>| -> Vec<String> {
            let lines =
                password.map(|password| ["--requirepass", password, "--masterauth", password]);
            lines.into_iter().flatten().map(str::to_owned).collect()
        };
        let mut nodes: Vec<Server> = Vec::new();
        let mut master_port = 0;
        for (number, ahead_ms) in ahead_ms.into_iter().enumerate() {
            let mut arguments = login(password);
            // A master that restarts without its data can be promoted again, and its replicas then copy the empty
            // dataset.
            arguments.extend(
                [
                    "--appendonly",
                    "yes",
                    "--repl-diskless-sync",
                    "yes",
                    "--repl-diskless-sync-delay",
                    "0",
                ]
                .map(str::to_owned),
            );
            if number > 0 {
                let master = master_port.to_string();
                arguments.extend(["--replicaof", "127.0.0.1", &master].map(str::to_owned));
            }
            if let Some(proxy) = proxies.get(number) {
                let announced = proxy.port().to_string();
                arguments.extend(["--replica-announce-port", &announced].map(str::to_owned));
            }
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let node = Server::start_with_clock(&arguments, ahead_ms).await;
            if let Some(proxy) = proxies.get(number) {
                proxy.lead_to(node.port());
            }
            if number == 0 {
                master_port = proxies.first().map_or(node.port(), Proxy::port);
            }
            nodes.push(node);
        }
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            // With 500 ms, sentinels that share two cores with many tests suspect servers that are well, and start one
            // failover after the other.
            let mut lines = format!(
                "sentinel monitor {MASTER} 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds {MASTER} 2000\n\
                 sentinel failover-timeout {MASTER} 6000\n\
                 sentinel parallel-syncs {MASTER} 2\n",
                master_port
            );
            if let Some(password) = password {
                lines.push_str(&format!("sentinel auth-pass {MASTER} {password}\n"));
            }
            if let Some(password) = sentinel_password {
                lines.push_str(&format!(
                    "requirepass {password}\nsentinel sentinel-pass {password}\n"
                ));
            }
            sentinels.push(Server::start_sentinel(&lines).await);
        }
        let started = Self {
            nodes,
            proxies,
            sentinels,
            password: password.map(str::to_owned),
            sentinel_password: sentinel_password.map(str::to_owned),
        };
        started.settle().await;
        started
    }

    /// Returns the value for `REDIS_URL`: the URLs of the sentinels.
    #[must_use]
    pub fn urls(&self) -> String {
        let urls: Vec<String> = self.sentinels.iter().map(Server::url).collect();
        urls.join(",")
    }

    /// Returns the environment variables that make a function use these servers.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        let mut env = vec![
            ("REDIS_MODE".into(), "sentinel".into()),
            ("REDIS_URL".into(), self.urls()),
        ];
        env.extend(
            self.password
                .clone()
                .map(|password| ("REDIS_PASSWORD".into(), password)),
        );
        env.extend(
            self.sentinel_password
                .clone()
                .map(|password| ("REDIS_SENTINEL_PASSWORD".into(), password)),
        );
        env
    }

    /// Returns the port of the master, according to the sentinels.
    ///
    /// # Panics
    /// If no sentinel answers in time.
    pub async fn master_port(&self) -> u16 {
        for sentinel in self.sentinels.iter().filter(|sentinel| sentinel.answers()) {
            let asked = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER];
            if let Ok(address) =
                ask::<Vec<String>>(sentinel, self.sentinel_password.as_deref(), &asked).await
            {
                return address[1].parse().expect("a port");
            }
        }
        panic!("no sentinel answers");
    }

    /// Runs a command on the master.
    ///
    /// # Panics
    /// If the command fails.
    pub async fn command<T: FromRedisValue>(&self, parts: &[&str]) -> T {
        let master = &self.nodes[self.master().await];
        ask(master, self.password.as_deref(), parts)
            .await
            .expect("the command succeeds")
    }

    /// Waits until both replicas have everything that the master has stored so far. The servers must have no password.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn replicated(&self) {
        self.nodes[self.master().await].replicated(2).await;
    }

    /// Changes a setting (`CONFIG SET`) on every data node.
    ///
    /// # Panics
    /// If a node refuses the setting.
    pub async fn configure(&self, name: &str, value: &str) {
        for node in &self.nodes {
            let set = ["CONFIG", "SET", name, value];
            ask::<String>(node, self.password.as_deref(), &set)
                .await
                .expect("the setting is accepted");
        }
    }

    /// Kills the master, as a crash would, and returns its port.
    pub async fn kill_master(&mut self) -> u16 {
        let master = self.master().await;
        self.nodes[master].kill().await;
        self.port(master)
    }

    /// Pauses the master's process and returns its port.
    pub async fn pause_master(&self) -> u16 {
        let master = self.master().await;
        self.nodes[master].pause();
        self.port(master)
    }

    /// Pauses the process of a replica.
    pub async fn pause_replica(&self) {
        let master = self.master().await;
        self.nodes[(master + 1) % self.nodes.len()].pause();
    }

    /// Resumes every paused node.
    pub fn resume(&self) {
        for node in &self.nodes {
            node.resume();
        }
    }

    /// Requests a failover. The sentinels may refuse it, for example while another is under way.
    pub async fn failover(&self) {
        let _: RedisResult<()> = ask(
            &self.sentinels[0],
            self.sentinel_password.as_deref(),
            &["SENTINEL", "FAILOVER", MASTER],
        )
        .await;
    }

    /// Kills a sentinel.
    pub async fn kill_sentinel(&mut self, number: usize) {
        self.sentinels[number].kill().await;
    }

    /// Pauses a sentinel's process.
    pub fn pause_sentinel(&self, number: usize) {
        self.sentinels[number].pause();
    }

    /// Waits until a node other than `old` is master, and returns its port.
    ///
    /// # Panics
    /// If no node becomes master in time.
    pub async fn wait_for_new_master(&self, old: u16) -> u16 {
        let started = Instant::now();
        loop {
            let port = self.master_port().await;
            if port != old && self.is_master(port).await {
                return port;
            }
            assert!(
                started.elapsed() < SETTLE_WITHIN,
                "no node became master in time"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Restarts killed nodes, resumes paused ones, and waits until all servers know each other again.
    pub async fn heal(&mut self) {
        self.resume();
        for node in &mut self.nodes {
            if !node.is_running() {
                node.restart().await;
            }
        }
        self.settle().await;
    }

    /// Waits until the master has two replicas in sync and the sentinels know them and each other.
    async fn settle(&self) {
        let started = Instant::now();
        while !self.is_settled().await {
            assert!(
                started.elapsed() < SETTLE_WITHIN,
                "the servers did not find each other in time"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    async fn is_settled(&self) -> bool {
        let number = self.master().await;
        let master = &self.nodes[number];
        let Ok(info) =
            ask::<String>(master, self.password.as_deref(), &["INFO", "replication"]).await
        else {
            return false;
        };
        let online = info
            .lines()
            .filter(|line| line.contains("state=online"))
            .count();
        let mut known = true;
        for sentinel in &self.sentinels {
            if !sentinel.answers() {
                continue;
            }
            let asked = ["SENTINEL", "MASTER", MASTER];
            let fields: Vec<String> = ask(sentinel, self.sentinel_password.as_deref(), &asked)
                .await
                .unwrap_or_default();
            let field = |name: &str| {
                let at = fields.iter().position(|field| field == name);
                at.and_then(|at| fields.get(at + 1))
                    .cloned()
                    .unwrap_or_default()
            };
            known &= field("num-slaves") == "2"
                && field("num-other-sentinels") == "2"
                && field("flags") == "master"
                && field("port") == self.port(number).to_string();
        }
        info.contains("role:master") && online == 2 && known
    }

    async fn is_master(&self, port: u16) -> bool {
        let Some(node) = self.number(port).map(|number| &self.nodes[number]) else {
            return false;
        };
        let info: RedisResult<String> =
            ask(node, self.password.as_deref(), &["INFO", "replication"]).await;
        info.is_ok_and(|info| info.contains("role:master"))
    }

    async fn master(&self) -> usize {
        let port = self.master_port().await;
        self.number(port).expect("a port of these servers")
    }

    fn number(&self, port: u16) -> Option<usize> {
        (0..self.nodes.len()).find(|number| self.port(*number) == port)
    }

    /// Returns the port at which clients reach a node.
    fn port(&self, number: usize) -> u16 {
        let proxy = self.proxies.get(number).map(Proxy::port);
        proxy.unwrap_or_else(|| self.nodes[number].port())
    }

    /// Returns the proxy in front of the master.
    ///
    /// # Panics
    /// If there is none.
    pub async fn master_proxy(&self) -> &Proxy {
        &self.proxies[self.master().await]
    }
}

/// Runs one command on one server. Returns `None` if it does not answer soon.
async fn ask<T: FromRedisValue>(
    server: &Server,
    password: Option<&str>,
    parts: &[&str],
) -> RedisResult<T> {
    let mut info = ::redis::IntoConnectionInfo::into_connection_info(server.url())?;
    if let Some(password) = password {
        let login = info.redis_settings().clone().set_password(password);
        info = info.set_redis_settings(login);
    }
    let mut connection = Client::open(info)?
        .get_multiplexed_async_connection()
        .await?;
    let mut command = ::redis::Cmd::new();
    command.arg(parts);
    command.query_async(&mut connection).await
}
