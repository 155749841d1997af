//! Matching, and the order in which routes win.
//!
//! 1. **Host**: the exact one, then the longest wildcard, then routes for any host. A host whose routes have no
//!    matching path is passed over for the next wider one: `host` narrows a route, it does not open a realm of its
//!    own, so a route for any host goes on applying to hosts that other routes name.
//! 2. **Path**: exact, then the longest prefix on segment boundaries.
//! 3. **Method**, among the routes with that very host and path: those that list methods before those that take
//!    all, then in the order of the file. When none takes it the answer is 405, never a wider route: otherwise a
//!    method left out of a strict route would slip through a lax one.
//!
//! `OPTIONS *` asks about the server as a whole, so only a route with the prefix `/` takes it.
//!
//! A path that some program would read in a way that falls under another route is refused (see
//! [`path::other_readings`]): `/v1/items%3Adelete` must not dodge the route of `/v1/items:delete`, nor `/admin;x/users`
//! that of `/admin`, and with `allow_encoded_slash` `/files%2Fsecret` must not dodge `/files/secret`.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use http::Method;

use crate::answer::{Code, Problem};

use super::authority::canonical_host;
use super::path;
use super::settings::{HostPattern, PathPattern, Route};
use super::{Head, path::NormalPath};

/// All routes, ready to be searched. A search looks up a few hashes whatever the number of routes, and allocates
/// nothing unless the path holds `;` or an encoded reserved character.
#[derive(Clone, Debug, Default)]
pub struct Table {
    exact: HashMap<Box<str>, Paths>,
    suffixes: HashMap<Box<str>, Paths>,
    any: Paths,
}

/// The route that decides about a request.
#[derive(Clone, Copy, Debug)]
pub struct Match<'t> {
    /// The route; clone the `Arc` to keep it.
    pub route: &'t Arc<Route>,
    /// How many bytes of the normal path its pattern covers: what `strip_prefix` takes off and `rewrite` replaces.
    pub prefix_len: usize,
}

/// The routes of one host pattern.
#[derive(Clone, Debug, Default)]
struct Paths {
    exact: HashMap<Box<str>, Vec<Arc<Route>>>,
    prefixes: HashMap<Box<str>, Vec<Arc<Route>>>,
    /// Lengths of `prefixes`, longest first: bounds a search by the configuration, not by what a client sends.
    prefix_lens: Vec<usize>,
}

impl Table {
    /// Hosts and paths of the routes are brought into normal form where they are not yet; `config` has refused
    /// those that have none.
    pub fn new(routes: Vec<Arc<Route>>) -> Self {
        let mut table = Self::default();
        for route in routes {
            table.paths_mut(&route.host).add(route);
        }
        let hosts = table.exact.values_mut().chain(table.suffixes.values_mut());
        for paths in hosts.chain([&mut table.any]) {
            paths.put_in_order();
        }
        table
    }

    /// The route for this request.
    ///
    /// # Errors
    /// 404 `no_route`; 405 `method_not_allowed` with `Allow`; 400 for `%2F` where the route does not allow it, and
    /// for a path that could be read as falling under another route.
    pub fn find(&self, head: &Head) -> Result<Match<'_>, Problem> {
        self.find_for(head, head.method())
    }

    /// The route that a request with this head and another method would fall under.
    ///
    /// # Errors
    /// As [`Table::find`].
    pub fn find_for(&self, head: &Head, method: &Method) -> Result<Match<'_>, Problem> {
        let found = self.search(head.host(), head.path(), method);
        let slash_allowed = found.as_ref().is_ok_and(|found| found.route.allow_encoded_slash);
        if head.has_encoded_slash() && !slash_allowed {
            return Err(Problem::new(Code::InvalidRequest, "the path holds an encoded slash").closing());
        }
        let found = found?;
        for reading in path::other_readings(head.path(), found.prefix_len) {
            let other = self.search(head.host(), &reading, method);
            if !other.is_ok_and(|other| Arc::ptr_eq(other.route, found.route)) {
                let detail = "the path can be read as falling under another route";
                return Err(Problem::new(Code::InvalidRequest, detail).closing());
            }
        }
        Ok(found)
    }

    fn search(&self, host: &str, path: &str, method: &Method) -> Result<Match<'_>, Problem> {
        let (routes, prefix_len) =
            self.hosts(host).find_map(|paths| paths.find(path)).ok_or_else(no_route)?;
        let route = routes.iter().find(|route| takes(route, method));
        route.map(|route| Match { route, prefix_len }).ok_or_else(|| method_not_allowed(routes))
    }

    /// From the narrowest pattern that matches this host to the widest.
    fn hosts<'t>(&'t self, host: &str) -> impl Iterator<Item = &'t Paths> {
        let dots = host.match_indices('.').map(|(at, dot)| at + dot.len());
        let exact = self.exact.get(host);
        // Names are admitted without empty labels, so what stands before each dot is one label or more.
        let suffixes = dots.filter_map(|at| self.suffixes.get(&host[at..]));
        exact.into_iter().chain(suffixes).chain([&self.any])
    }

    fn paths_mut(&mut self, host: &HostPattern) -> &mut Paths {
        let canonical = |host: &str| canonical_host(host).map_or_else(|_| host.into(), Box::from);
        match host {
            HostPattern::Any => &mut self.any,
            HostPattern::Exact(host) => self.exact.entry(canonical(host)).or_default(),
            HostPattern::Suffix(host) => self.suffixes.entry(canonical(host)).or_default(),
        }
    }
}

impl Deref for Match<'_> {
    type Target = Route;

    fn deref(&self) -> &Route {
        self.route
    }
}

impl Paths {
    fn add(&mut self, route: Arc<Route>) {
        let normal = |path: &str| {
            path::normalise(path).map_or_else(|_| path.into(), |NormalPath { path, .. }| path.into())
        };
        let routes = match &route.path {
            PathPattern::Exact(path) => self.exact.entry(normal(path)),
            PathPattern::Prefix(path) => self.prefixes.entry(normal(path)),
        };
        routes.or_default().push(route);
    }

    fn put_in_order(&mut self) {
        for routes in self.exact.values_mut().chain(self.prefixes.values_mut()) {
            routes.sort_by_key(|route| route.methods.is_empty()); // stable
        }
        self.prefix_lens = self.prefixes.keys().map(|prefix| prefix.len()).collect();
        self.prefix_lens.sort_unstable_by(|a, b| b.cmp(a));
        self.prefix_lens.dedup();
    }

    /// The routes of the most specific path, and how much of the path it covers.
    fn find(&self, path: &str) -> Option<(&[Arc<Route>], usize)> {
        if let Some(routes) = self.exact.get(path) {
            return Some((routes, path.len()));
        }
        if path == "*" {
            return Some((self.prefixes.get("/")?, path.len()));
        }
        let bounded = self.prefix_lens.iter().filter(|len| ends_segment(path, **len));
        bounded.copied().find_map(|len| Some((self.prefixes.get(&path[..len])?.as_slice(), len)))
    }
}

/// The first `len` bytes are whole segments, with or without the slash after them. Normal paths are ASCII, so any
/// length is a character boundary.
fn ends_segment(path: &str, len: usize) -> bool {
    let bytes = path.as_bytes();
    let ends_in_slash = len > 0 && bytes.get(len - 1) == Some(&b'/');
    bytes.len() == len || (bytes.len() > len && (bytes[len] == b'/' || ends_in_slash))
}

/// GET implies HEAD (RFC 9110 §9.3.2).
fn takes(route: &Route, method: &Method) -> bool {
    route.methods.is_empty()
        || route.methods.contains(method)
        || (*method == Method::HEAD && route.methods.contains(&Method::GET))
}

fn no_route() -> Problem {
    Problem::new(Code::NoRoute, "no route matches this host and path")
}

fn method_not_allowed(routes: &[Arc<Route>]) -> Problem {
    let mut methods: Vec<&str> = Vec::new();
    for route in routes {
        for method in &route.methods {
            let implied = (*method == Method::GET).then_some("HEAD");
            for name in [Some(method.as_str()), implied].into_iter().flatten() {
                if !methods.contains(&name) {
                    methods.push(name);
                }
            }
        }
    }
    Problem::new(Code::MethodNotAllowed, "the method is not allowed for this path")
        .with_allow(methods.join(", "))
}

#[cfg(test)]
mod tests {
    use http::{Request, Version};

    use super::super::fixtures;
    use super::*;

    /// `name host path methods flags`: host `-` is any; path `=/x` exact; methods `-` all, else `GET,PUT`; `2F`.
    fn route(line: &str) -> Arc<Route> {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or("-");
        let name = word().into();
        let host = match word() {
            "-" => HostPattern::Any,
            host => match host.strip_prefix("*.") {
                Some(suffix) => HostPattern::Suffix(suffix.into()),
                None => HostPattern::Exact(host.into()),
            },
        };
        let path = word();
        let path = match path.strip_prefix('=') {
            Some(exact) => PathPattern::Exact(exact.into()),
            None => PathPattern::Prefix(path.into()),
        };
        let methods = match word() {
            "-" => Vec::new(),
            list => list.split(',').map(|method| method.parse().unwrap()).collect(),
        };
        let allow_encoded_slash = word() == "2F";
        Arc::new(Route { name, host, path, methods, allow_encoded_slash, ..fixtures::route() })
    }

    fn table(lines: &[&str]) -> Table {
        Table::new(lines.iter().map(|line| route(line)).collect())
    }

    fn head(method: &str, host: &str, target: &str) -> Head {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .version(Version::HTTP_11)
            .header("host", host)
            .body(())
            .unwrap();
        Head::admit(&request, fixtures::PEER, &fixtures::LIMITS).unwrap()
    }

    /// `expected` is a route's name and the covered prefix, or a code and `Allow`.
    fn check(table: &Table, request: &str, expected: &str) {
        let words: Vec<_> = request.split(' ').collect();
        let got = match table.find(&head(words[0], words[1], words[2])) {
            Ok(found) => format!("{} {}", found.name, found.prefix_len),
            Err(problem) => {
                let context = crate::answer::Context {
                    request_id: "",
                    realm: "",
                    invalid_token_status: http::StatusCode::UNAUTHORIZED,
                    head: false,
                    grpc: false,
                    error_member: false,
                };
                let code = problem.code().name();
                let response = problem.into_response(&context);
                let allow = response.headers().get("allow").map(|allow| allow.to_str().unwrap());
                [code, allow.unwrap_or_default()].join(" ").trim_end().to_owned()
            }
        };
        assert_eq!(got, expected, "for {request}");
    }

    #[test]
    fn the_most_specific_path_wins() {
        let table =
            table(&["root - /", "api - /api", "deep - /api/v1/users", "one - =/api/v1", "slash - /dir/"]);
        for (request, expected) in [
            ("GET a /", "root 1"),
            ("GET a /apix", "root 1"),
            ("GET a /api", "api 4"),
            ("GET a /api/", "api 4"),
            ("GET a /api/v1", "one 7"),
            ("GET a /api/v1/", "api 4"),
            ("GET a /api/v1/users", "deep 13"),
            ("GET a /api/v1/users/7", "deep 13"),
            ("GET a /api/v1/usersx", "api 4"),
            ("GET a //api//v1/./users/../users/7", "deep 13"),
            ("GET a /%61pi/x", "api 4"),
            ("GET a /API", "root 1"),
            ("GET a /dir", "root 1"),
            ("GET a /dir/", "slash 5"),
            ("GET a /dir/x", "slash 5"),
        ] {
            check(&table, request, expected);
        }
    }

    #[test]
    fn the_most_specific_host_wins_and_wider_ones_take_its_other_paths() {
        let table = table(&[
            "any - /",
            "wide *.example.com /",
            "narrow *.eu.example.com /",
            "exact shop.eu.example.com /cart",
            "v6 ::1 /",
        ]);
        for (request, expected) in [
            ("GET example.com /cart", "any 1"),
            ("GET a.example.com /cart", "wide 1"),
            ("GET a.b.example.com /cart", "wide 1"),
            ("GET eu.example.com /", "wide 1"),
            ("GET x.eu.example.com /", "narrow 1"),
            ("GET shop.eu.example.com /cart/1", "exact 5"),
            ("GET SHOP.eu.Example.com.:8080 /cart", "exact 5"),
            ("GET shop.eu.example.com /", "narrow 1"),
            ("GET notexample.com /", "any 1"),
            ("GET [0:0::1]:80 /", "v6 1"),
        ] {
            check(&table, request, expected);
        }
    }

    #[test]
    fn without_a_route_it_is_404() {
        let table = table(&["a a.example /x", "b *.b.example /"]);
        for request in ["GET a.example /", "GET a.example /xy", "GET c.example /x", "GET b.example /"] {
            check(&table, request, "no_route");
        }
        check(&Table::default(), "GET a /", "no_route");
    }

    #[test]
    fn methods_decide_last_and_never_fall_through() {
        let table = table(&[
            "root - /",
            "read - /items GET",
            "write - /items POST,PUT",
            "exact - =/items/one DELETE",
            "all - /mixed",
            "some - /mixed PATCH",
            "host h.example /items PATCH",
        ]);
        for (request, expected) in [
            ("GET a /items", "read 6"),
            ("HEAD a /items/1", "read 6"),
            ("PUT a /items", "write 6"),
            ("DELETE a /items", "method_not_allowed GET, HEAD, POST, PUT"),
            ("OPTIONS a /items", "method_not_allowed GET, HEAD, POST, PUT"),
            ("GET a /items/one", "method_not_allowed DELETE"),
            ("PATCH a /mixed", "some 6"),
            ("GET a /mixed", "all 6"),
            ("GET h.example /items", "method_not_allowed PATCH"),
        ] {
            check(&table, request, expected);
        }
    }

    #[test]
    fn options_of_everything_falls_under_the_root_prefix_alone() {
        check(&table(&["root - /", "api - /api"]), "OPTIONS a *", "root 1");
        check(&table(&["api - /api", "exact - =/"]), "OPTIONS a *", "no_route");
        check(&table(&["root - / GET"]), "OPTIONS a *", "method_not_allowed GET, HEAD");
    }

    #[test]
    fn an_encoded_slash_is_data_only_where_the_route_says_so() {
        let table = table(&["root - /", "files - /files - 2F", "secret - /files/secret", "top - /top"]);
        for (request, expected) in [
            ("GET a /files/a%2Fb", "files 6"),
            ("GET a /files/a%2fb/c", "files 6"),
            ("GET a /files%2Fa", "invalid_request"),
            ("GET a /a%2Fb", "invalid_request"),
            ("GET a /files/secret/a%2Fb", "invalid_request"),
            ("GET a /files/secret%2Fb", "invalid_request"),
            ("GET a /files/%2Fsecret", "invalid_request"),
            ("GET a /top%2Fx", "invalid_request"),
        ] {
            check(&table, request, expected);
        }
        check(&self::table(&["only - /only"]), "GET a /x%2Fy", "invalid_request");
    }

    #[test]
    fn a_path_that_reads_as_another_routes_is_refused() {
        let table = table(&["root - /", "admin - /admin", "verb - /v1/items:delete", "param - /m;v=1"]);
        for (request, expected) in [
            ("GET a /x;y/z", "root 1"),
            ("GET a /x%3Ay%40z", "root 1"),
            ("GET a /admin;x/users", "invalid_request"),
            ("GET a /;x/admin", "invalid_request"),
            ("GET a /admin%3Bx", "invalid_request"),
            ("GET a /v1/items:delete", "verb 16"),
            ("GET a /v1/items%3Adelete", "invalid_request"),
            ("GET a /m;v=1/x", "param 6"),
            ("GET a /m;v=1/x;y", "param 6"),
            ("GET a /admin/a;b", "admin 6"),
        ] {
            check(&table, request, expected);
        }
    }

    #[test]
    fn patterns_may_be_spelled_in_any_way() {
        let table = table(&["a - /caf%c3%a9//x", "b - =/%7euser", "c EXAMPLE.com. /"]);
        check(&table, "GET h /caf%C3%A9/x/y", "a 12");
        check(&table, "GET h /~user", "b 6");
        check(&table, "GET example.com /", "c 1");
    }

    #[test]
    fn ten_thousand_routes_are_told_apart() {
        let lines: Vec<_> =
            (0..10_000).map(|i| format!("r{i} h{}.example /s{}/p{i}", i % 100, i % 7)).collect();
        let table = table(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        for i in (0..10_000).step_by(997) {
            let path = format!("/s{}/p{i}", i % 7);
            check(&table, &format!("GET h{}.example {path}/x", i % 100), &format!("r{i} {}", path.len()));
        }
    }
}
