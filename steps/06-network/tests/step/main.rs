//! Step 06, run as a learner runs it, and looked at from the host: which is a network namespace of the test's own, as
//! [`testing`] makes for each. Nothing here touches the machine's network.

#[allow(dead_code)]
#[path = "../../../04-engine/tests/step/home.rs"]
mod home;
mod join;
#[allow(dead_code)]
#[path = "../../../04-engine/tests/step/killed.rs"]
mod killed;
mod place;

use std::fs::{read_to_string, write};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, ExitCode};
use std::time::Duration;

use home::{Home, rootfs};
use network::netlink;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use place::{Ordinary, Outside, bridged, filtered, inside, ruleset, says};
use testing::{Check, World, calls, check, interfaces, needs, proc_link, step};

fn main() -> ExitCode {
    // Made once, before the tests run in processes of their own.
    let root = rootfs();
    // An ordinary user makes no mount points in a root of root's.
    ["hosts", "hostname", "resolv.conf"].iter().for_each(|name| write(root.join("etc").join(name), "").expect("etc"));
    if bridged().is_none() {
        // A root that belongs to the range already is taken everywhere, also where the file system takes no map of ids.
        let given = Command::new("chown").args(["-hR", "100000:100000"]).arg(root).status().expect("chown");
        assert!(given.success());
    }
    let code = testing::run("step06", [checks(), join::checks()].into_iter().flatten().collect());
    home::remove_rootfs();
    code
}

fn checks() -> Vec<Check> {
    vec![
        check("a_container_has_an_address_and_is_reached", [bridged()], || {
            let home = Home::new();
            let [one, two] = [(); 2].map(|()| home.ok(&["run", "-d", "sleep", "100"]));
            let [first, second] = [&one, &two].map(|id| home.init(id));
            let addresses = [[10, 6, 0, 2], [10, 6, 0, 3]];
            // From the host, from a neighbour, and the other way round.
            let serve = |pid, word: &'static str| inside(pid, move || place::serve("0.0.0.0:80", word));
            let (_first, _second) = (serve(first, "one"), serve(second, "two"));
            assert_eq!(addresses.map(|address| says(address, 80)), ["one 10.6.0.1", "two 10.6.0.1"]);
            assert_eq!(inside(first, move || says(addresses[1], 80)), "two 10.6.0.2");
            assert_eq!(inside(second, move || says(addresses[0], 80)), "one 10.6.0.3");
            let host = place::serve("10.6.0.1:81", "host");
            assert_eq!(inside(first, || says([10, 6, 0, 1], 81)), "host 10.6.0.2");
            drop(host);
            // What a process that exec brings in has, is the same.
            let guest = home.ok(&["exec", &one, "readlink", "/proc/self/ns/net"]);
            assert_eq!(guest, proc_link(first, "ns/net"));
        })
        .differs_in(World::SLOW),
        check("a_container_is_reached_by_ipv6", [place::ipv6()], || {
            let home = Home::new();
            let [web, db] = ["web", "db"].map(|name| home.ok(&["run", "-d", "--name", name, "sleep", "100"]));
            let [first, second] = [&web, &db].map(|id| home.init(id));
            let [host, of_web, of_db] = [1, 2, 3].map(|last| place::ipv6_of(last)[0]);
            let _server = inside(first, || place::serve(&format!("[{of_web}]:80"), "web"));
            assert_eq!(says(of_web, 80), format!("web {host}"));
            assert_eq!(inside(second, || says(of_web, 80)), format!("web {of_db}"));
            // Its neighbour finds it by its name.
            let look_up = |database: &str| {
                let script = "mount --bind $1 /etc/hosts && getent $2 web | cut -d ' ' -f 1 | sort -u";
                let hosts = home.directory(&db).join("hosts").display().to_string();
                let words = ["--mount", "sh", "-c", script, "sh", &hosts, database];
                String::from_utf8_lossy(&Command::new("unshare").args(words).output().expect("unshare").stdout)
                    .into_owned()
            };
            assert_eq!(look_up("ahostsv6"), format!("{of_web}\n"));
            let _host = place::serve(&format!("[{host}]:81"), "host");
            assert_eq!(inside(first, || says(host, 81)), format!("host {of_web}"));
            // This host passes on nothing by IPv6: it would take no routes from routers any more.
            assert_eq!(read_to_string("/proc/sys/net/ipv6/conf/all/forwarding").expect("setting"), "0\n");
            let routes = home.ok(&["exec", "web", "cat", "/proc/self/net/ipv6_route"]);
            let is_way_out = |line: &&str| line.starts_with(&"0".repeat(32)) && line.ends_with("eth0");
            assert_eq!(routes.lines().find(is_way_out), None);
        }),
        check("without_ipv6_it_says_so_and_goes_on", [place::ipv6()], || {
            let home = Home::new();
            let notice = "# the container has no address of IPv6: ";
            let off = |name: &str| {
                write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").expect("setting");
            };
            let run = || {
                let ran = home.step(&["run", "--rm", "cat", "/etc/hosts"]).ran();
                let begins = |line: &&str| line.starts_with(notice);
                let why = ran.err.lines().find(begins).map(|line| line.trim_start_matches(notice).to_owned());
                assert_eq!((ran.code, ran.out.contains("fd06:")), (0, why.is_none()), "{}", ran.err);
                why
            };
            assert_eq!(run(), None);
            netlink::add_bridge("other", [2; 6]).expect("bridge");
            netlink::add_address("other", Ipv6Addr::new(0xfd06, 0, 0, 0, 1, 0, 0, 1), 80).expect("address");
            assert_eq!(run().as_deref(), Some("the host reaches fd06::a:6:0:1/64 by its interface other"));
            netlink::delete_link("other").expect("delete");
            // For those that are made from now on, and then for a bridge that is there.
            off("default");
            assert_eq!(run().as_deref(), Some("/proc/sys/net/ipv6/conf/default/disable_ipv6 is 1"));
            let id = home.ok(&["run", "-d", "sleep", "100"]);
            assert_eq!(run().as_deref(), Some("/proc/sys/net/ipv6/conf/step06/disable_ipv6 is 1"));
            home.ok(&["rm", "-f", &id]);
        }),
        check("a_default_run_fits_on_a_screen", [needs::user_namespaces()], || {
            let home = Home::new();
            // What is printed once a machine is not counted.
            let _ = write("/proc/sys/net/ipv4/ip_forward", "1");
            let ran = home.step(&["run", "--rm", "true"]).ran();
            let shown = ran.err.replace(&home.path().display().to_string(), "/run/user/1000");
            let shown = shown.replace(&rootfs().display().to_string(), "/home/you/container/target/rootfs");
            let lines = testing::lines_on_screen(&shown);
            assert!(ran.code == 0 && lines <= 24, "{lines} lines:\n{}", ran.err);
        }),
        check("a_dry_run_prints_the_calls_of_a_run", [bridged()], || {
            let home = Home::new();
            write("/proc/sys/net/ipv4/ip_forward", "1").expect("ip_forward");
            let [run, dry] = [&[][..], &["--dry-run"]].map(|option| {
                let ran = home.narrated(&[option, &["run", "--rm", "true"]].concat()).ran();
                assert_eq!(ran.code, 0, "{}", ran.err);
                let calls = calls(&home::without_ids(&ran.err)).into_iter();
                calls.filter(|call| call.contains("RTM_") || call.contains("lease")).collect::<Vec<_>>()
            });
            assert!(run.iter().any(|call| call.contains("RTM_NEWROUTE(default via N.N.N.N)")), "{run:?}");
            assert_eq!(run, dry);
        }),
        check("the_last_container_takes_the_bridge_along", [bridged()], || {
            let home = Home::new();
            let [one, two] = [(); 2].map(|()| home.ok(&["run", "-d", "sleep", "100"]));
            assert_eq!(interfaces(), ["lo", "step06", "step06-2", "step06-3"]);
            home.ok(&["stop", "-t", "0", &one]);
            assert_eq!(interfaces(), ["lo", "step06", "step06-3"], "gone when the command returns");
            // The address is free again, and that of the other one is not.
            let third = home.ok(&["run", "-d", "sleep", "100"]);
            assert_eq!(interfaces(), ["lo", "step06", "step06-2", "step06-3"]);
            home.ok(&["rm", "-f", &two, &third]);
            assert_eq!(interfaces(), ["lo"]);
        }),
        check("a_created_container_has_its_address", [bridged()], || {
            let home = Home::new();
            home.ok(&["create", "--name", "web", "--ip", "10.6.0.77", "true"]);
            assert_eq!(interfaces(), ["lo", "step06", "step06-77"]);
            home.refuses(&["run", "--rm", "--ip", "10.6.0.77", "true"], "another container has the address 10.6.0.77");
            home.ok(&["start", "-a", "web"]);
            assert_eq!(interfaces(), ["lo"], "a stopped one has given it back");
            for (address, word) in [("10.6.0.1", "own"), ("192.168.1.1", "not in 10.6.0.0/24")] {
                home.refuses(&["run", "--rm", "--ip", address, "true"], word);
            }
            assert_eq!(interfaces(), ["lo"]);
        }),
        check("none_is_loopback_alone_and_host_is_the_hosts", [bridged()], || {
            let home = Home::new();
            let net = ["readlink", "/proc/self/ns/net"];
            let host = proc_link(Pid::this(), "ns/net");
            assert_eq!(home.ok(&[&["run", "--rm", "--network", "host"], &net[..]].concat()), host);
            assert_ne!(home.ok(&[&["run", "--rm", "--network", "none"], &net[..]].concat()), host);
            let devices = home.ok(&["run", "--rm", "--network", "none", "cat", "/proc/self/net/dev"]);
            assert!(devices.contains("lo:") && !devices.contains("eth0"), "{devices}");
            home.refuses(&["run", "--rm", "--network", "host", "--namespaces", "net,mount", "true"], "leave one out");
            home.refuses(&["run", "--rm", "--network", "bridge", "--namespaces", "mount", "true"], "add `net`");
            home.refuses(&["run", "--rm", "--network", "none", "--ip", "10.6.0.9", "true"], "not on");
        }),
        check("a_name_or_a_network_that_is_taken_is_one_sentence", [bridged()], || {
            let home = Home::new();
            netlink::add_bridge("step06", [2; 6]).expect("bridge");
            home.refuses(&["run", "--rm", "true"], "not this step's");
            netlink::delete_link("step06").expect("delete");
            netlink::add_bridge("other", [2; 6]).expect("bridge");
            netlink::add_address("other", Ipv4Addr::new(10, 6, 0, 130), 25).expect("address");
            home.refuses(&["run", "--rm", "true"], "by its interface other");
            netlink::delete_link("other").expect("delete");
            // That of another store.
            let id = home.ok(&["run", "-d", "sleep", "100"]);
            let other = Home::new();
            other.refuses(&["run", "--rm", "true"], &format!("that of the containers in {}", home.store().display()));
            home.ok(&["rm", "-f", &id]);
            assert_eq!(interfaces(), ["lo"]);
        }),
        check("packets_are_passed_on_and_that_is_said", [bridged()], || {
            let home = Home::new();
            write("/proc/sys/net/ipv4/ip_forward", "0").expect("ip_forward"); // a new one may have this machine's setting
            let ran = home.step(&["run", "--rm", "true"]).ran();
            assert!(ran.code == 0 && ran.err.contains("# from here on this machine passes packets on"), "{}", ran.err);
            assert_eq!(read_to_string("/proc/sys/net/ipv4/ip_forward").expect("ip_forward"), "1\n");
            let ran = home.step(&["run", "--rm", "true"]).ran();
            assert!(ran.code == 0 && !ran.err.contains("passes packets on"), "{}", ran.err);
        }),
        check("both_ends_have_the_mtu_of_the_way_out", [bridged(), needs::tool("ip")], || {
            let home = Home::new();
            netlink::add_bridge("uplink", [2; 6]).expect("bridge");
            let mtu = Command::new("ip").args(["link", "set", "uplink", "mtu", "1400"]).status().expect("ip");
            assert!(mtu.success());
            netlink::add_address("uplink", Ipv4Addr::new(192, 0, 2, 2), 24).expect("address");
            netlink::add_default_route(Ipv4Addr::new(192, 0, 2, 1)).expect("route");
            let id = home.ok(&["run", "-d", "sleep", "100"]);
            let of = |name: &str| netlink::link(name).expect("netlink").expect("there").mtu;
            assert_eq!((of("step06-2"), inside(home.init(&id), move || of("eth0"))), (1400, 1400));
            home.ok(&["rm", "-f", &id]);
            netlink::delete_link("uplink").expect("delete");
        }),
        check("a_monitor_that_is_killed_leaves_what_clean_removes", [bridged()], || {
            let home = Home::new();
            let id = home.ok(&["run", "-d", "sleep", "100"]);
            kill(home.monitor(&id), Signal::SIGKILL).expect("kill");
            testing::wait_until("it is dead", || home.status(&id) == "dead");
            // Its address is its own until then.
            let second = home.ok(&["run", "-d", "sleep", "100"]);
            assert!(interfaces().contains(&"step06-3".to_owned()), "{:?}", interfaces());
            home.ok(&["rm", "-f", &second]);
            home.ok(&["clean"]);
            assert_eq!(interfaces(), ["lo"]);
        }),
        check("a_damaged_last_container_leaves_what_clean_removes", [filtered()], || {
            let home = Home::new();
            for file in ["config.json", "lease.json"] {
                let id = home.ok(&["run", "-d", "-p", "8080:80", "sleep", "100"]);
                let monitor = home.monitor(&id);
                // As long as it lives, nobody takes its network, whatever is written down.
                write(home.directory(&id).join(file), "{").expect("write");
                home.step(&["clean"]).ran();
                assert!(interfaces().contains(&"step06-2".to_owned()), "{file}: {:?}", interfaces());
                if file == "config.json" {
                    home.refuses(&["port", &id], "config.json");
                }
                kill(monitor, Signal::SIGKILL).expect("kill");
                testing::wait_until("it is dead", || !home.is_looked_after());
                home.ok(&["rm", "-f", &id]);
                home.ok(&["clean"]);
                testing::wait_until("the cable is gone", || !interfaces().contains(&"step06-2".to_owned()));
                assert_eq!((interfaces(), ruleset()), (vec!["lo".to_owned()], String::new()), "{file}");
            }
        }),
        check("a_killed_engine_leaves_nothing_of_a_network", [filtered()], || {
            let run = ["run", "--name", "it", "-p", "8080:80", "sleep", "0.3"];
            killed::at_every_pause(|_| {}, &run, killed::Who::Engine);
            assert_eq!((interfaces(), ruleset()), (vec!["lo".to_owned()], String::new()));
        }),
        check("a_killed_monitor_leaves_nothing_of_a_network", [filtered()], || {
            let create = ["create", "--name", "it", "-p", "8080:80", "true"];
            killed::at_every_pause(|_| {}, &create, killed::Who::Monitor);
            assert_eq!((interfaces(), ruleset()), (vec!["lo".to_owned()], String::new()));
        }),
        check("a_published_port_is_reached_from_everywhere", [filtered()], published).differs_in(World::SYSTEMD),
        check("a_published_udp_port_is_reached_from_everywhere", [filtered()], || {
            let (home, outside) = (Home::new(), Outside::new());
            let [web, other] = [&["-p", "8080:80/udp"][..], &[]]
                .map(|options| home.init(&home.ok(&[&["run", "-d"], options, &["sleep", "100"]].concat())));
            let _server = inside(web, || place::serve_datagrams("0.0.0.0:80"));
            let says = |address| place::says_to_a_datagram(address, 8080);
            assert_eq!(inside(outside.pid(), || says([192, 0, 2, 1])), "datagram 192.0.2.2");
            assert_eq!(says([127, 0, 0, 1]), "datagram 10.6.0.1");
            assert_eq!(says([192, 0, 2, 1]), "datagram 10.6.0.1");
            // An answer from another address than the one that was asked would not be heard.
            for address in [[10, 6, 0, 1], [192, 0, 2, 1]] {
                assert_eq!(inside(other, || says(address)), "datagram 10.6.0.1", "a neighbour, at {address:?}");
                assert_eq!(inside(web, || says(address)), "datagram 10.6.0.1", "itself, at {address:?}");
            }
            // The port of the same number is another one.
            let _tcp = place::serve("127.0.0.1:8080", "somebody");
            home.refuses(&["run", "--rm", "-p", "8080:80/udp", "true"], "bind(udp, 0.0.0.0:8080): EADDRINUSE");
            // More than it remembers: the last ones are answered, too.
            for _ in 0..300 {
                assert_eq!(says([127, 0, 0, 1]), "datagram 10.6.0.1");
            }
        }),
        check("a_port_on_loopback_is_nobody_elses", [filtered()], || {
            let (home, outside) = (Home::new(), Outside::new());
            let id = home.ok(&["run", "-d", "-p", "127.0.0.1:8080:80", "sleep", "100"]);
            let _server = inside(home.init(&id), || place::serve("0.0.0.0:80", "web"));
            assert_eq!(says([127, 0, 0, 1], 8080), "web 10.6.0.1");
            assert_eq!(inside(outside.pid(), || says([192, 0, 2, 1], 8080)), "");
            // Nor does a container reach what listens on the host's loopback, by whatever route.
            let _secret = place::serve("127.0.0.1:5000", "secret");
            assert_eq!(inside(home.init(&id), || says([10, 6, 0, 1], 5000)), "");
            assert_eq!(read_to_string("/proc/sys/net/ipv4/conf/step06/route_localnet").expect("setting"), "0\n");
        }),
        check("nobody_is_heard_as_a_neighbour", [filtered(), needs::tool("ip")], || {
            let home = Home::new();
            let [victim, taker] = [(); 2].map(|()| home.init(&home.ok(&["run", "-d", "sleep", "100"])));
            let ip = |pid, words: &str| {
                let words: Vec<_> = words.split(' ').collect();
                let ran = inside(pid, || Command::new("ip").args(&words).status().expect("ip").success());
                assert!(ran, "{words:?}");
            };
            let _victim = inside(victim, || place::serve("0.0.0.0:80", "victim"));
            let _taker = inside(taker, || place::serve("0.0.0.0:80", "taker"));
            assert_eq!(says([10, 6, 0, 3], 80), "taker 10.6.0.1");
            // Both its addresses, while it is silent; the host asks anew who has them.
            ip(victim, "link set eth0 down");
            ip(taker, "address add 10.6.0.2/24 dev eth0");
            ip(Pid::this(), "neigh flush dev step06");
            let soon = Duration::from_secs(2);
            assert_eq!(place::says_within(soon, [10, 6, 0, 2], 80), "");
            ip(taker, "link set eth0 down");
            ip(taker, "link set eth0 address 02:06:0a:06:00:02");
            ip(taker, "link set eth0 up");
            assert_eq!(place::says_within(soon, [10, 6, 0, 2], 80), "");
            // It is its own misfortune: the neighbour is heard as before.
            ip(victim, "link set eth0 up");
            assert_eq!(says([10, 6, 0, 2], 80), "victim 10.6.0.1");
        }),
        check("nobody_is_heard_as_a_neighbour_by_ipv6", [filtered(), place::ipv6(), needs::tool("ip")], || {
            let home = Home::new();
            let [victim, taker] = [(); 2].map(|()| home.init(&home.ok(&["run", "-d", "sleep", "100"])));
            let host = Pid::this();
            let ip = |pid, words: &str| {
                let words: Vec<_> = words.split(' ').collect();
                let ran = inside(pid, || Command::new("ip").args(&words).output().expect("ip"));
                assert!(ran.status.success(), "{words:?}");
                String::from_utf8_lossy(&ran.stdout).into_owned()
            };
            let [of_host, of_victim, of_taker] = [1, 2, 3].map(|last| place::ipv6_of(last)[0]);
            let serve = |pid, word: &'static str| inside(pid, move || place::serve("[::]:80", word));
            let _servers = [serve(victim, "victim"), serve(taker, "taker"), serve(host, "host")];
            let comes = format!("victim {of_host}");
            assert_eq!(says(of_victim, 80), comes);
            // It says that the address is at its own interface. What it sends next is answered, so that has arrived, too.
            let send = |message: &[u8], to| {
                inside(taker, || place::send_to_neighbour(to, message));
                assert_eq!(inside(taker, || says(of_host, 80)), format!("host {of_taker}"));
            };
            send(&place::advertisement(of_victim, network::ethernet([10, 6, 0, 3].into())), of_host);
            let known = ip(host, &format!("-6 neigh show {of_victim} dev step06"));
            assert!(known.contains("lladdr 02:06:0a:06:00:02"), "{known}");
            // That it is the way to everybody else, from the address that every interface has by itself.
            let local = |last| place::ipv6_of(last)[1];
            testing::wait_until("it can be used", || !ip(taker, "-6 address show tentative").contains("fe80"));
            for (pid, device, of) in [(host, "step06", local(1)), (victim, "eth0", local(2))] {
                testing::wait_until("it can be used", || !ip(pid, "-6 address show tentative").contains("fe80"));
                send(&place::ROUTER_ADVERTISEMENT, of);
                let routes = ip(pid, "-6 route show default");
                assert!(!routes.contains(device), "{routes}");
            }
            // It takes the address while its owner is silent; the host asks anew who has it.
            ip(victim, "link set eth0 down");
            ip(taker, &format!("address add {of_victim}/64 dev eth0 nodad"));
            ip(host, "-6 neigh flush dev step06");
            assert_eq!(place::says_within(Duration::from_secs(2), of_victim, 80), "");
            assert_eq!(says(of_taker, 80), format!("taker {of_host}"));
            // Nor does what it sends arrive as its neighbour's; its own does.
            let heard = UdpSocket::bind((of_host, 82)).expect("bind");
            inside(taker, || {
                let send = |from| UdpSocket::bind((from, 0))?.send_to(b"?", (of_host, 82));
                [of_victim, of_taker].into_iter().for_each(|from| _ = send(from).expect("send"));
            });
            heard.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
            assert_eq!(heard.recv_from(&mut [0]).expect("its own").1.ip(), of_taker);
        }),
        check("a_router_of_ipv6_leads_to_no_container", [filtered(), place::ipv6(), needs::tool("ip")], || {
            let (home, outside) = (Home::new(), Outside::new());
            let web = home.init(&home.ok(&["run", "-d", "sleep", "100"]));
            let ip = |pid, words: &str| {
                let words: Vec<_> = words.split(' ').collect();
                assert!(inside(pid, || Command::new("ip").args(&words).status().expect("ip").success()), "{words:?}");
            };
            write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("setting");
            ip(Pid::this(), "address add fd07::1/64 dev uplink nodad");
            ip(outside.pid(), "address add fd07::2/64 dev eth0 nodad");
            ip(outside.pid(), "-6 route add default via fd07::1");
            ip(web, "-6 route add default via fd06::a:6:0:1");
            let (_far, _web) = (
                inside(outside.pid(), || place::serve("[::]:80", "far")),
                inside(web, || place::serve("[::]:80", "web")),
            );
            let of_web = place::ipv6_of(2)[0];
            let of_outside = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 2);
            // Without the rules it leads there and back.
            let removed = Command::new("nft").args(["delete", "table", "ip6", "step06"]).status().expect("nft");
            assert!(removed.success());
            assert_eq!(inside(outside.pid(), || says(of_web, 80)), "web fd07::2");
            assert_eq!(inside(web, || says(of_outside, 80)), format!("far {of_web}"));
            // Each container makes them anew. Not even a datagram is passed on, to which nobody has to answer: the host's own comes.
            home.ok(&["run", "-d", "sleep", "100"]);
            let first_heard = |by: Pid, address: Ipv6Addr, others: Pid| {
                let heard = inside(by, || UdpSocket::bind((address, 82)).expect("bind"));
                let send =
                    || UdpSocket::bind("[::]:0").and_then(|socket| socket.send_to(b"?", (address, 82))).expect("send");
                inside(others, send);
                send();
                heard.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
                heard.recv_from(&mut [0]).expect("the host's").1.ip()
            };
            assert_eq!(first_heard(web, of_web, outside.pid()), place::ipv6_of(1)[0]);
            assert_eq!(first_heard(outside.pid(), of_outside, web), Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 1));
        }),
        check("a_container_is_reached_by_no_other_port", [filtered()], || {
            let (home, outside) = (Home::new(), Outside::new());
            let id = home.ok(&["run", "-d", "-p", "8080:80", "sleep", "100"]);
            let _server = inside(home.init(&id), || place::serve("0.0.0.0:81", "web"));
            let word = inside(outside.pid(), || place::says_within(Duration::from_secs(1), [10, 6, 0, 2], 81));
            assert_eq!(word, "", "a neighbour of the host's has sent it to the container's own address");
            assert_eq!(says([10, 6, 0, 2], 81), "web 10.6.0.1");
        }),
        check("a_container_reaches_others_as_the_host", [filtered()], || {
            let (home, outside) = (Home::new(), Outside::new());
            let _server = inside(outside.pid(), || place::serve("0.0.0.0:80", "far"));
            let id = home.ok(&["run", "-d", "sleep", "100"]);
            assert_eq!(inside(home.init(&id), || says([192, 0, 2, 2], 80)), "far 192.0.2.1");
        }),
        check("the_proxy_loses_nothing_and_knows_half_closed_connections", [bridged()], || {
            let home = Home::new();
            let id = home.ok(&["run", "-d", "-p", "8080:80", "sleep", "100"]);
            // Sends back what it has read, all of it, once nothing more comes.
            let listener = inside(home.init(&id), || TcpListener::bind("0.0.0.0:80").expect("bind"));
            let echo = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("accept");
                let mut all = Vec::new();
                stream.read_to_end(&mut all).expect("read");
                stream.write_all(&all).expect("write");
            });
            let sent: Vec<_> = (0..8_000_000_u32).map(|number| (number / 7) as u8).collect();
            let mut stream = TcpStream::connect("127.0.0.1:8080").expect("connect");
            stream.write_all(&sent).expect("write");
            stream.shutdown(Shutdown::Write).expect("shutdown");
            let mut received = Vec::new();
            stream.read_to_end(&mut received).expect("read");
            assert!(sent == received, "{} of {} bytes", received.len(), sent.len());
            echo.join().expect("echo");
            // Nobody listens any more: the connection is closed, and the monitor does not turn in circles.
            assert_eq!(says([127, 0, 0, 1], 8080), "");
            let times = || testing::proc(home.monitor(&id), "stat").rsplit_once(')').expect("stat").1.to_owned();
            let ticks =
                || times().split_whitespace().skip(11).take(2).map(|it| it.parse::<u64>().expect("ticks")).sum::<u64>();
            let before = ticks();
            std::thread::sleep(Duration::from_secs(1));
            assert!(ticks() - before < 20, "{} ticks of 100 in a second", ticks() - before);
        }),
        check("a_port_that_somebody_has_is_found_before_anything_is_made", [bridged()], || {
            let home = Home::new();
            let _server = place::serve("127.0.0.1:8080", "somebody");
            home.refuses(&["run", "--rm", "-p", "8080:80", "true"], "bind(0.0.0.0:8080): EADDRINUSE");
            assert_eq!((interfaces(), home.all()), (vec!["lo".to_owned()], String::new()));
            home.refuses(&["run", "--rm", "-p", "192.0.2.99:8080:80", "true"], "EADDRNOTAVAIL");
            home.refuses(&["run", "--rm", "-p", "81:80", "-p", "81:82", "true"], "published twice");
            home.refuses(&["run", "--rm", "--network", "host", "-p", "81:80", "true"], "listens there");
            // A created container has its port, and a stopped one has not.
            let id = home.ok(&["create", "-p", "8081:80", "true"]);
            home.refuses(&["run", "--rm", "-p", "8081:80", "true"], "EADDRINUSE");
            assert_eq!(home.ok(&["port", &id]), "80/tcp -> 0.0.0.0:8081");
            home.ok(&["start", "-a", &id]);
            home.ok(&["run", "--rm", "-p", "8081:80", "true"]);
            assert_eq!(home.ok(&["port", &id]), "");
        }),
        check("neighbours_are_found_by_their_names", [bridged()], || {
            let home = Home::new();
            let web = home.ok(&["run", "-d", "--name", "web", "--add-host", "far:192.0.2.7", "sleep", "100"]);
            let _server = inside(home.init(&web), || place::serve("0.0.0.0:80", "web"));
            home.ok(&["run", "-d", "--name", "db", "--hostname", "box", "--dns", "192.0.2.53", "sleep", "100"]);
            let ask = "exec 3<>/dev/tcp/web/80; echo >&3; cat <&3";
            assert_eq!(home.ok(&["exec", "db", "bash", "-c", ask]), "web 10.6.0.3");
            let hosts = |name: &str| home.ok(&["exec", name, "cat", "/etc/hosts"]);
            let begin = "127.0.0.1 localhost\n::1 localhost\n";
            // With IPv6 each line has one beside it.
            let both = |last: u16, names: &str| match place::ipv6() {
                None => format!("10.6.0.{last} {names}\n{} {names}\n", place::ipv6_of(last)[0]),
                Some(_) => format!("10.6.0.{last} {names}\n"),
            };
            let all = both(2, "web") + &both(3, "db box");
            let sorted = |text: String| {
                let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines.join("\n")
            };
            let is = |name: &str, text: String| assert_eq!(sorted(hosts(name)), sorted(text));
            let of_web = format!("{begin}{}192.0.2.7 far\n", both(2, &web));
            is("web", format!("{of_web}{all}"));
            is("db", format!("{begin}{}{all}", both(3, "box")));
            assert_eq!(
                home.ok(&["exec", "db", "cat", "/etc/hostname", "/etc/resolv.conf"]),
                "box\nnameserver 192.0.2.53"
            );
            home.ok(&["rm", "-f", "db"]);
            is("web", format!("{of_web}{}", both(2, "web")));
            // What was asked for counts more.
            let own = tempfile::NamedTempFile::new_in("/tmp").expect("tempfile");
            write(own.path(), "mine").expect("write");
            std::fs::set_permissions(own.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("chmod");
            let volume = format!("{}:/etc/hosts", own.path().display());
            assert_eq!(home.ok(&["run", "--rm", "-v", &volume, "cat", "/etc/hosts"]), "mine");
        }),
        check("without_nft_it_says_whom_it_does_not_reach", [bridged()], || {
            let (home, outside) = (Home::new(), Outside::new());
            let nowhere = tempfile::tempdir().expect("tempdir");
            let run = |words: &[&str]| home.step(words).with(|command| _ = command.env("PATH", nowhere.path())).ran();
            let ran = run(&["run", "--rm", "true"]);
            assert!(ran.code == 0 && ran.err.contains("nobody else: nft is not installed"), "{}", ran.err);
            assert_eq!(interfaces(), ["cable", "lo", "uplink"]);
            // A published port is the proxy's then, for all.
            let ran = run(&["-q", "run", "-d", "-p", "8080:80", "sleep", "100"]);
            let id = ran.out.trim_end().to_owned();
            let _server = inside(home.init(&id), || place::serve("0.0.0.0:80", "web"));
            assert_eq!(inside(outside.pid(), || says([192, 0, 2, 1], 8080)), "web 10.6.0.1");
            // No rule keeps a container from saying that it is a router: so the host does not listen.
            let setting = read_to_string("/proc/sys/net/ipv6/conf/step06/accept_ra");
            assert!(setting.as_ref().is_ok_and(|it| it == "0\n") || place::ipv6().is_some(), "{setting:?}");
            home.ok(&["rm", "-f", &id]);
        }),
        check("of_a_crowd_of_containers_none_shares_an_address_and_none_is_left", [bridged()], a_crowd).alone(),
        check("without_root_it_says_why_it_reaches_nobody", [needs::ordinary_user(), needs::user_namespaces()], || {
            let home = Home::new();
            let nowhere = tempfile::tempdir().expect("tempdir");
            let run = |words: &[&str]| home.step(words).with(|command| _ = command.env("PATH", nowhere.path())).ran();
            let ran = run(&["run", "--rm", "/bin/cat", "/proc/self/net/dev"]);
            assert!(ran.code == 0 && !ran.out.contains("eth0"), "{ran:?}");
            assert!(ran.err.contains("reaches nobody: a bridge takes root"), "{}", ran.err);
            assert!(ran.err.contains("pasta is not installed"), "{}", ran.err);
            let ran = run(&["run", "--rm", "-p", "8080:80", "/bin/true"]);
            assert!(ran.code == 125 && ran.err.contains("pasta is not installed"), "{}", ran.err);
            home.refuses(&["run", "--rm", "--network", "bridge", "true"], "a bridge takes root");
            home.refuses(&["run", "--rm", "--ip", "10.6.0.9", "true"], "a bridge takes root");
            home.ok(&["run", "--rm", "--network", "host", "true"]);
        }),
        check("an_ordinary_user_is_reached_and_reaches_others", [place::pasta()], ordinary),
        check("pasta_ends_with_its_monitor", [place::pasta()], || {
            let user = Ordinary::new();
            let make = || {
                let ran = user.make("create", &["true"]).ran();
                assert_eq!(ran.code, 0, "{}", ran.err);
                let id = ran.out.trim().to_owned();
                let [_, monitor] = user.processes(&id);
                (id, monitor, place::pasta_of(monitor).expect("pasta"))
            };
            let (id, _, pasta) = make();
            user.ok(&["start", "-a", &id]);
            assert!(!home::alive(pasta), "gone when the command returns");
            let (_, monitor, pasta) = make();
            kill(monitor, Signal::SIGKILL).expect("kill");
            testing::wait_until("the kernel has ended it", || !home::alive(pasta));
            user.ok(&["clean"]);
            user.ok(&["rm", "-f", &id]);
        }),
        check("where_pasta_cannot_it_says_why", [place::pasta()], || {
            let user = Ordinary::new();
            let _server = place::serve("127.0.0.1:8080", "somebody");
            let refuses = |options: &[&str], word: &str| {
                let ran = user.make("run", &[&["--rm"], options, &["true"]].concat()).ran();
                assert!(ran.code == 125 && ran.err.contains(word), "{options:?}: {ran:?}");
            };
            refuses(&["-p", "8080:80"], "bind(0.0.0.0:8080): EADDRINUSE");
            refuses(&["--network", "bridge"], "a bridge takes root");
            // A host without a way out has none to give.
            netlink::delete_link("cable").and_then(|()| netlink::delete_link("uplink")).expect("delete");
            refuses(&["--network", "pasta"], "pasta: ");
            refuses(&["-p", "8081:80"], "pasta: ");
            let ran = user.make("run", &["--rm", "true"]).ran();
            assert!(ran.code == 0 && ran.err.contains("# the container reaches nobody: pasta: "), "{ran:?}");
            Home::new().refuses(&["run", "--rm", "--network", "pasta", "true"], "root has the bridge");
        }),
    ]
}

fn published() {
    let (home, outside) = (Home::new(), Outside::new());
    let [web, other] = [&["-p", "8080:80"][..], &[]].map(|options| {
        let id = home.ok(&[&["run", "-d"], options, &["sleep", "100"]].concat());
        home.init(&id)
    });
    let _server = inside(web, || place::serve("0.0.0.0:80", "web"));
    let from = |place, address| inside(place, move || says(address, 8080));
    let host = Pid::this();
    // By the rule: the container sees who it is.
    assert_eq!(from(outside.pid(), [192, 0, 2, 1]), "web 192.0.2.2");
    // By the proxy: it sees the host.
    for address in [[127, 0, 0, 1], [10, 6, 0, 1], [192, 0, 2, 1]] {
        assert_eq!(from(host, address), "web 10.6.0.1", "the host, at {address:?}");
    }
    for address in [[10, 6, 0, 1], [192, 0, 2, 1]] {
        assert_eq!(from(other, address), "web 10.6.0.1", "a neighbour, at {address:?}");
        assert_eq!(from(web, address), "web 10.6.0.1", "itself, at {address:?}");
    }
    drop(home);
    assert_eq!(ruleset(), "");
}

fn ordinary() {
    let user = Ordinary::new();
    let ran = user.make("run", &["-d", "-p", "8080:80", "-p", "8080:80/udp", "sleep", "100"]).ran();
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("default route via 192.0.2.254"), "{}", ran.err);
    let id = ran.out.trim();
    let [web, _] = user.processes(id);
    let _server = inside(web, || place::serve("0.0.0.0:80", "web"));
    assert_eq!(says([127, 0, 0, 1], 8080), "web 127.0.0.1");
    assert_eq!(inside(user.outside(), || says([192, 0, 2, 1], 8080)), "web 192.0.2.2");
    let _datagrams = inside(web, || place::serve_datagrams("0.0.0.0:80"));
    assert_eq!(inside(user.outside(), || place::says_to_a_datagram([192, 0, 2, 1], 8080)), "datagram 192.0.2.2");
    assert_eq!(user.ok(&["port", id]), "80/tcp -> 0.0.0.0:8080\n80/udp -> 0.0.0.0:8080");
    // One more container in its network, which reaches others by the same program and is reached by the same port.
    let join = ["-d", "--network", &format!("container:{id}"), "sleep", "100"];
    let ran = user.make("run", &join).ran();
    assert_eq!(ran.code, 0, "{}", ran.err);
    let guest = ran.out.trim();
    let [init, _] = user.processes(guest);
    join::are_together(web, init);
    user.ok(&["exec", guest, "ip", "address", "add", "192.0.2.7/32", "dev", "lo"]);
    assert!(user.ok(&["exec", id, "ip", "address"]).contains("192.0.2.7/32"));
    user.ok(&["rm", "-f", guest]);
    // Others see the host.
    let _far = inside(user.outside(), || place::serve("0.0.0.0:81", "far"));
    assert_eq!(inside(web, || says([192, 0, 2, 2], 81)), "far 192.0.2.1");
    // What listens on the host's loopback alone is reached by no address; nor is a port that is not published.
    let _secret = place::serve("127.0.0.1:5000", "secret");
    for address in [[127, 0, 0, 1], [192, 0, 2, 1], [192, 0, 2, 2]] {
        let word = inside(web, || place::says_within(Duration::from_secs(1), address, 5000));
        assert_eq!(word, "", "at {address:?}");
    }
    let _other = inside(web, || place::serve("0.0.0.0:82", "web"));
    assert_eq!((says([127, 0, 0, 1], 82), says([127, 0, 0, 1], 80)), (String::new(), String::new()));
    user.ok(&["rm", "-f", id]);
}

/// Eight at a time, each of which says its address.
fn a_crowd() {
    let home = Home::new();
    let root = rootfs().display().to_string();
    let script = "grep -B1 '32 host' /proc/self/net/fib_trie | grep -o '10[.]6[.]0[.][0-9]*' | sort -u; sleep 0.3";
    let one = || {
        let words = ["-q", "run", "--rm", "--rootfs", &root, "bash", "-c", script];
        step("step06", words).with(|command| _ = command.env("XDG_RUNTIME_DIR", home.path()))
    };
    for _ in 0..testing::some_of(13) {
        let runs: Vec<_> = (0..8).map(|_| one().spawn()).collect();
        let mut addresses: Vec<_> = runs
            .into_iter()
            .map(|run| {
                let output = run.wait_with_output().expect("wait");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                String::from_utf8_lossy(&output.stdout).into_owned()
            })
            .collect();
        assert!(addresses.iter().all(|it| it.starts_with("10.6.0.") && it.lines().count() == 1), "{addresses:?}");
        addresses.sort();
        addresses.dedup();
        // Where the first of them has ended before the last has begun, that one has its address.
        assert!(addresses.len() > 2, "{addresses:?}");
    }
    assert_eq!(home.all(), "");
    assert_eq!(interfaces(), ["lo"]);
}
