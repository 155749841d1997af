//! The shared log in a real Redis cluster of six members: whoever is asked tells who has the namespace, and the fleet
//! goes on when that one fails or the slot moves away.

use std::process::Command;

use crate::fleet::{cluster, passes, ready, refused, revoke, start};
use crate::support::redis::{Redis, free_port};
use crate::support::{Upstream, wait_for};

/// Three masters, and a replica of each.
struct Cluster {
    members: Vec<Redis>,
}

/// A line of `CLUSTER NODES`.
#[derive(Debug)]
struct Node {
    id: String,
    port: u16,
    is_master: bool,
    has_failed: bool,
}

impl Cluster {
    fn start() -> Self {
        let start = |_| {
            // By itself the bus would be ten thousand ports higher, where there may be none.
            Redis::start_with(&format!(
                "appendonly yes\nappendfsync everysec\nmaxmemory-policy noeviction\ncluster-enabled yes\n\
                 cluster-port {}\ncluster-node-timeout 1500\ncluster-require-full-coverage no\n",
                free_port()
            ))
        };
        let made = Self { members: (0..6).map(start).collect() };
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]);
        create.args(made.members.iter().map(|member| member.address().to_string()));
        create.args(["--cluster-replicas", "1", "--cluster-yes"]);
        let told = create.output().expect("redis-cli (Debian: apt-get install redis-tools)");
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stdout));
        for member in &made.members {
            wait_for("the cluster", || {
                let is_whole = member.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
                let nodes = Self::nodes_of(member);
                let masters = nodes.iter().filter(|node| node.is_master).count();
                (is_whole && nodes.len() == 6 && masters == 3).then_some(())
            });
        }
        made
    }

    fn nodes_of(member: &Redis) -> Vec<Node> {
        let told = member.command(&["CLUSTER", "NODES"]);
        let node = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let address = words.get(1)?.split_once('@')?.0;
            Some(Node {
                id: words[0].to_owned(),
                port: address.rsplit_once(':')?.1.parse().ok()?,
                is_master: words[2].contains("master"),
                has_failed: words[2].contains("fail"),
            })
        };
        told.lines().filter_map(node).collect()
    }

    /// The member that has the namespace, as another one sees it: where a question about it is sent to.
    fn holder(&self) -> usize {
        wait_for("a member that has the namespace", || {
            self.members.iter().position(|member| {
                member.is_running() && member.command(&["XLEN", "{portcullis}:live"]).starts_with(':')
            })
        })
    }

    fn others(&self, than: usize) -> Vec<usize> {
        (0..self.members.len()).filter(|other| *other != than).collect()
    }

    fn url(&self, members: &[usize]) -> String {
        let addresses: Vec<_> = members.iter().map(|at| self.members[*at].address().to_string()).collect();
        format!("redis+cluster://{}", addresses.join(","))
    }

    /// The master of this id or port.
    fn id(&self, at: usize) -> String {
        let nodes = Self::nodes_of(&self.members[at]);
        nodes.into_iter().find(|node| node.port == self.members[at].port()).unwrap().id
    }
}

#[test]
fn a_fleet_on_a_cluster_goes_on_when_its_master_fails_and_when_its_slot_moves() {
    let mut engines = Cluster::start();
    let upstream = Upstream::echo();
    let slot = engines.members[0].command(&["CLUSTER", "KEYSLOT", "{portcullis}:live"]);
    let slot = slot.trim().trim_start_matches(':').to_owned();
    let holder = engines.holder();
    // None of those that are named has it: they say who does.
    let strangers = engines.others(holder);
    let mut one = start(&engines.url(&strangers[..2]), &upstream, "");
    let two = start(&engines.url(&strangers[2..]), &upstream, "");
    assert_eq!(revoke(&one, "a")["propagated"], true);
    refused(&two, "a");
    assert_eq!(two.unrevoke("token", "a", "legacy").expect(200).json()["propagated"], true);
    wait_for("the lift", || passes(&one, "a").then_some(()));
    revoke(&one, "a");
    refused(&two, "a");
    // All keys are in one slot, so that one script changes them at once.
    let keys = engines.members[holder].command(&["DBSIZE"]);
    assert_eq!(engines.members[holder].command(&["CLUSTER", "COUNTKEYSINSLOT", &slot]), keys);
    assert!(keys.trim() != ":0", "{keys}");

    // Its master fails, and the replica takes its place. What was acknowledged was replicated.
    wait_for("the replica", || {
        let told = engines.members[holder].command(&["INFO", "replication"]);
        let own = told.lines().find_map(|line| line.strip_prefix("master_repl_offset:"))?.trim().to_owned();
        told.lines()
            .any(|line| line.starts_with("slave0:") && line.contains(&format!("offset={own},")))
            .then_some(())
    });
    engines.members[holder].kill9();
    revoke(&one, "meanwhile");
    assert!(!passes(&one, "meanwhile"));
    wait_for("a revocation", || (revoke(&two, "b")["propagated"] == true).then_some(()));
    refused(&one, "b");
    refused(&two, "meanwhile");
    let after = engines.holder();
    assert_ne!(after, holder);
    // A gateway that restarts goes on where it was, a new one gets everything.
    one.restart();
    let three = start(&engines.url(&[strangers[0]]), &upstream, "");
    for gateway in [&one, &two, &three] {
        ready(gateway);
        ["a", "b", "meanwhile"].iter().for_each(|id| refused(gateway, id));
    }
    // The old master comes back as a replica.
    engines.members[holder].begin();
    wait_for("the old master to follow", || {
        let nodes = Cluster::nodes_of(&engines.members[after]);
        let port = engines.members[holder].port();
        nodes.iter().any(|node| node.port == port && !node.is_master && !node.has_failed).then_some(())
    });

    // The slot moves to another master, key by key.
    let masters = Cluster::nodes_of(&engines.members[after]);
    let target = engines.others(after).into_iter().find(|at| {
        masters
            .iter()
            .any(|node| node.port == engines.members[*at].port() && node.is_master && !node.has_failed)
    });
    let target = target.unwrap();
    let (from, to) = (engines.id(after), engines.id(target));
    let told = |at: usize, words: &[&str]| {
        let answer = engines.members[at].command(words);
        assert!(!answer.starts_with('-'), "{words:?}: {answer}");
        answer
    };
    told(target, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from]);
    told(after, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to]);
    let keys = told(after, &["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
    let keys: Vec<&str> =
        keys.lines().map(str::trim).filter(|line| line.starts_with("{portcullis}")).collect();
    let port = engines.members[target].port().to_string();
    let (first, rest) = keys.split_at(keys.len() / 2);
    let migrate = |keys: &[&str]| {
        let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        words.extend(keys);
        told(after, &words);
    };
    migrate(first);
    // Half of it is there and half here: what is revoked now is forwarded later.
    revoke(&one, "moving");
    migrate(rest);
    told(target, &["CLUSTER", "SETSLOT", &slot, "NODE", &to]);
    told(after, &["CLUSTER", "SETSLOT", &slot, "NODE", &to]);
    wait_for("a revocation", || (revoke(&three, "moved")["propagated"] == true).then_some(()));
    for gateway in [&one, &two, &three] {
        ["a", "b", "meanwhile", "moving", "moved"].iter().for_each(|id| refused(gateway, id));
    }
    assert_eq!(engines.holder(), target);
    wait_for("an empty outbox", || (cluster(&one)["outbox"] == 0).then_some(()));
}
