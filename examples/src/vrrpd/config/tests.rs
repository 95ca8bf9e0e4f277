use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lb_vrrp::config::{AddressCheck, Auth, Garp, LosingAdvert};
use lb_vrrp::hmac::{AntiReplay, Hmac, Key, Mode};
use lb_vrrp::track::{Check, Weight};
use lb_vrrp::wire::Version;
use proptest::prelude::*;

use super::*;

/// The configuration of the thesis that this family of crates continues: two directors, one address.
const THESIS: &str = "\
! Configuration File for keepalived
global_defs {
   router_id director1
}

vrrp_instance HA1 {
    state MASTER
    interface eth0
    virtual_router_id 11
    priority 150
    advert_int 1
    authentication {
        auth_type PASS
        auth_pass abcd
    }
    virtual_ipaddress {
        192.168.250.250
    }
    track_interface {
        eth0
    }
}
";

/// The same in the other form.
const THESIS_TOML: &str = r#"
[global_defs]
router_id = "director1"

[vrrp_instance.HA1]
state = "MASTER"
interface = "eth0"
virtual_router_id = 11
priority = 150
advert_int = 1
authentication = { auth_type = "PASS", auth_pass = "abcd" }
virtual_ipaddress = ["192.168.250.250"]
track_interface = ["eth0"]
"#;

/// Files that are not on the disk.
#[derive(Default)]
struct Shelf(BTreeMap<PathBuf, &'static str>);

impl Files for Shelf {
    fn find(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        let pattern = glob::Pattern::new(pattern.to_str().unwrap())
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(self.0.keys().filter(|file| pattern.matches_path(file)).cloned().collect())
    }

    fn read(&self, file: &Path) -> io::Result<String> {
        self.0.get(file).map(|text| (*text).to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn is_open(&self, file: &Path) -> bool {
        file.starts_with("/open")
    }
}

fn read(file: &str, text: &str) -> Result<Config, Problems> {
    parse(Path::new(file), text, &Shelf::default())
}

fn conf(text: &str) -> Config {
    read("k.conf", text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// An instance with `lines` beside what every instance must have.
fn instance(lines: &str) -> String {
    format!(
        "vrrp_instance V {{\ninterface eth0\nvirtual_router_id 5\nvirtual_ipaddress {{\n10.0.0.1/24\n}}\n{lines}\n}}\n"
    )
}

fn one(lines: &str) -> Instance {
    conf(&instance(lines)).instances.remove(0)
}

#[test]
fn the_thesis_configuration_reads_in_both_forms() {
    let config = conf(THESIS);
    let instance = &config.instances[0];
    let mut expected = lb_vrrp::Config::new(11, ["192.168.250.250".parse().unwrap()]);
    expected.version = Version::V2;
    expected.priority = 150;
    expected.auth = Auth::simple_text("abcd");
    expected.losing_advert = LosingAdvert::Answer;
    expected.address_check = AddressCheck::Drop;
    expected.require_link_local = false;
    assert_eq!(instance.router, expected);
    assert_eq!((instance.name.as_str(), instance.interface.as_str()), ("HA1", "eth0"));
    assert_eq!(instance.tracks, [], "the own interface is tracked anyway");
    assert_eq!(config.global.router_id.as_deref(), Some("director1"));
    assert_eq!(
        config.warnings,
        [
            "k.conf:12: vrrp_instance HA1: auth_pass is sent in the clear: it guards against mistakes and protects against nobody"
        ]
    );

    let toml = read("v.toml", THESIS_TOML).unwrap();
    assert_eq!(toml.instances[0].router, instance.router);
    let converted = convert(Path::new("k.conf"), THESIS, &Shelf::default()).unwrap();
    assert_eq!(read("v.toml", &converted).unwrap().instances[0].router, instance.router);
    assert!(converted.contains("virtual_ipaddress = [\"192.168.250.250\"]"), "{converted}");
}

#[test]
fn marks_of_an_encoding_and_foreign_comments_do_no_harm() {
    let file = std::env::temp_dir().join(format!("vrrpd-latin-{}.conf", std::process::id()));
    let text = instance("priority 7 # caf\u{e9}");
    let latin: Vec<u8> = text.chars().map(|character| character as u8).collect();
    let mut results = Vec::new();
    let quoted = [latin.as_slice(), b"vrrp_script caf\xe9 {\n}\n"].concat();
    for bytes in [[b"\xef\xbb\xbf", text.as_bytes()].concat(), latin, quoted] {
        std::fs::write(&file, bytes).unwrap();
        results.push(load(&file, &Disk::default()));
    }
    std::fs::remove_file(&file).unwrap();
    for config in &results[..2] {
        assert_eq!(config.as_ref().unwrap().instances[0].router.priority, 7);
    }
    assert!(results[2].as_ref().unwrap_err().to_string().contains(":9: this is not UTF-8"));
}

#[test]
fn toml_is_converted_already() {
    let error = convert(Path::new("v.toml"), THESIS_TOML, &Shelf::default()).unwrap_err();
    assert_eq!(error.to_string(), "v.toml is TOML already: vrrpd runs it as it is");
}

#[test]
fn defaults_are_keepalived_s() {
    let router = one("").router;
    assert_eq!((router.version, router.priority, router.interval.centiseconds()), (Version::V2, 100, 100));
    assert!(router.preempt && router.preempt_delay.is_zero() && router.unicast_peers.is_empty());
    assert_eq!(router.garp, Garp::default());
    let six = "vrrp_instance V {\ninterface eth0\nvirtual_router_id 5\nvirtual_ipaddress {\nfe80::5\n}\n}\n";
    assert_eq!(conf(six).instances[0].router.version, Version::V3);
}

#[test]
fn every_setting_lands_where_it_belongs() {
    let seconds = Duration::from_secs;
    let read = one("version 3\nadvert_int 0.1\nnopreempt");
    assert_eq!((read.router.interval.centiseconds(), read.router.preempt), (10, false));
    assert_eq!(one("preempt_delay 4.12").router.preempt_delay, Duration::from_millis(4_120));
    assert_eq!(one("lower_prio_no_advert").router.losing_advert, LosingAdvert::Discard);
    assert_eq!(one("skip_check_adv_addr yes").router.address_check, AddressCheck::Report);
    assert!(one("strict_mode").router.require_link_local);
    assert!(one("").router.accept && one("accept").router.accept && !one("no_accept").router.accept);
    assert_eq!(
        one("use_vmac vrrp.5\nvmac_xmit_base").vmac.unwrap(),
        Vmac { name: Some("vrrp.5".into()), transmit_base: true }
    );
    assert_eq!(one("use_vmac").vmac, Some(Vmac { name: Some("vrrp.5".into()), transmit_base: false }));

    let unicast =
        one("unicast_src_ip 10.0.0.2\nunicast_peer {\n10.0.0.3 min_ttl 254\n10.0.0.4 min_ttl 254\n}");
    assert_eq!(unicast.source, Some([10, 0, 0, 2].into()));
    assert_eq!(unicast.router.unicast_peers.len(), 2);
    assert_eq!(unicast.router.accepted_ttl, 254..=255);
    assert_eq!(
        one("unicast_peer {\n10.0.0.3\n}").router.accepted_ttl,
        0..=255,
        "keepalived looks at no unicast TTL"
    );

    let excluded = one("virtual_ipaddress_excluded {\n10.0.0.9/32 dev eth0\nfe80::9\n}");
    let listed: Vec<(String, bool)> =
        excluded.router.addresses.iter().map(|address| (address.to_string(), address.advertised)).collect();
    assert_eq!(
        listed,
        [("10.0.0.1/24".into(), true), ("10.0.0.9/32".into(), false), ("fe80::9/128".into(), false)]
    );

    let apart = one("virtual_ipaddress_excluded {\n10.1.0.1/24 dev eth1\n10.2.0.1/24 dev eth1\n}");
    assert_eq!(apart.router.addresses[1].to_string(), "10.1.0.1/24 dev eth1");
    let tracked: Vec<&Target> = apart.tracks.iter().map(|track| &track.target).collect();
    assert_eq!(tracked, [&Target::Interface("eth1".into())], "once");

    let garp =
        one("garp_master_delay 1\ngarp_master_repeat 2\ngarp_master_refresh 60\ngarp_lower_prio_repeat 3")
            .router
            .garp;
    assert_eq!((garp.delay, garp.repeat, garp.refresh), (seconds(1), 2, seconds(60)));
    assert_eq!((garp.lower_priority_delay, garp.lower_priority_repeat), (seconds(1), 3));

    let global = conf(&format!(
        "global_defs {{\nvrrp_version 3\nvrrp_garp_master_repeat 1\nvrrp_startup_delay 2.5\nscript_user lb ops\nenable_script_security\nvrrp_rt_priority 50\nvrrp_no_swap\nvrrp_mcast_group4 224.0.0.18\n}}\n{}",
        instance("garp_master_delay 9")
    ));
    let router = &global.instances[0].router;
    assert_eq!((router.version, router.garp.repeat, router.garp.delay), (Version::V3, 1, seconds(9)));
    assert_eq!(router.startup_delay, Duration::from_millis(2_500));
    assert_eq!(
        global.global,
        Global {
            router_id: None,
            script_user: Some(User { name: "lb".into(), group: Some("ops".into()) }),
            script_security: true,
            rt_priority: Some(50),
            no_swap: true,
        }
    );
    let brief =
        conf(&format!("global_defs {{\nvrrp_min_garp\n}}\n{}", instance(""))).instances.remove(0).router.garp;
    assert_eq!((brief.repeat, brief.delay), (1, Duration::ZERO));
}

/// Firewalls know an interface by its name, so it is keepalived's, as long as it is nobody else's.
#[test]
fn interfaces_of_virtual_macs_have_keepalived_s_names() {
    let v = instance("use_vmac");
    let six = v.replace(" V ", " W ").replace("10.0.0.1/24", "fe80::5");
    let other = v.replace(" V ", " X ").replace("eth0", "eth1").replace("10.0.0.1", "10.0.1.1");
    let named = v.replace(" V ", " Y ").replace("_id 5", "_id 6").replace("eth0", "eth2");
    let named = named.replace("use_vmac", "use_vmac mac6").replace("10.0.0.1", "10.0.2.1");
    let names = |global: &str| -> Vec<Option<String>> {
        let config = conf(&format!("{global}{v}{six}{other}{named}"));
        config.instances.into_iter().map(|instance| instance.vmac.unwrap().name).collect()
    };
    let some = |name: &str| Some(name.to_owned());
    assert_eq!(names(""), [some("vrrp.5"), some("vrrp6.5"), None, some("mac6")]);
    let prefixed = "global_defs {\nvmac_prefix ha\n}\n";
    assert_eq!(names(prefixed), [some("ha.5"), some("ha6.5"), None, some("mac6")]);
}

/// keepalived 2.2.7 looks at no unicast TTL unless it is told to: it heeds a peer whose adverts come with TTL 1, and sends
/// over IPv6 with a hop limit of 64, of which each router on the way takes one.
#[test]
fn unicast_peers_may_be_any_number_of_hops_away() {
    let six = |lines: &str| {
        let text = format!("unicast_peer {{\n2001:db8::2 {lines}\n}}");
        let text = instance(&text).replace("10.0.0.1/24", "fe80::5");
        conf(&text).instances.remove(0).router.accepted_ttl
    };
    for (lines, accepted) in
        [("", 0..=255), ("min_ttl 63", 63..=255), ("max_ttl 64", 0..=64), ("min_ttl 63 max_ttl 64", 63..=64)]
    {
        assert_eq!(six(lines), accepted, "{lines}");
    }
}

#[test]
fn tracks_weigh_as_they_are_told() {
    let config = conf(&format!(
        "vrrp_script chk {{\nscript \"/bin/chk 'a b' c\"\ninterval 2\ntimeout 1\nweight -20\nrise 2\nfall 3\nuser nobody\ninit_fail\n}}\n\
         vrrp_track_process proxy {{\nprocess haproxy -f /etc/h.cfg\nparam_match initial\nquorum 2\ndelay 1.5\nfull_command\n}}\n\
         track_file offset {{\nfile \"/run/offset\"\nweight 2 reverse\ninit_file 5 overwrite\n}}\n{}",
        instance(
            "track_script {\nchk\n}\ntrack_process {\nproxy weight 30\n}\ntrack_file {\noffset\n}\n\
             track_interface {\neth0\neth1 weight -10 reverse\n}\n\
             notify \"/bin/n x\" root\nnotify_master /bin/m\nnotify_backup /bin/b\nnotify_fault /bin/f\nnotify_stop /bin/s"
        )
    ));
    let script = &config.scripts[0];
    assert_eq!(script.command.words, ["/bin/chk", "a b", "c"]);
    assert_eq!(script.command.user, Some(User { name: "nobody".into(), group: None }));
    assert_eq!((script.interval, script.timeout), (Duration::from_secs(2), Duration::from_secs(1)));
    let weight = |points| Weight::new(points).unwrap();
    let check = Check { weight: weight(-20), reverse: false, rise: 2, fall: 3, initially_down: true };
    assert_eq!(script.check, check);
    let process = &config.processes[0];
    assert_eq!((process.parameters, process.quorum, process.words.len()), (Parameters::Initial, 2, 3));
    assert_eq!(
        (process.fork_delay, process.terminate_delay),
        (Duration::from_millis(1_500), Duration::from_millis(1_500))
    );
    assert_eq!(config.files[0].initial, Some((5, true)));
    let instance = &config.instances[0];
    let tracked = |points, reverse| Check { weight: weight(points), reverse, ..Check::default() };
    assert_eq!(
        instance.tracks,
        [
            Track { target: Target::Script(0), check },
            Track { target: Target::Process(0), check: tracked(30, false) },
            Track { target: Target::File(0), check: tracked(2, true) },
            Track { target: Target::Interface("eth1".into()), check: tracked(-10, true) },
        ]
    );
    let words = |command: &Option<Command>| command.as_ref().unwrap().words.join(" ");
    let hooks = &instance.hooks;
    assert_eq!(
        [&hooks.any, &hooks.master, &hooks.backup, &hooks.fault, &hooks.stop].map(words),
        ["/bin/n x", "/bin/m", "/bin/b", "/bin/f", "/bin/s"]
    );
}

#[test]
fn groups_bind_their_members_and_share_what_they_track() {
    let second = instance("").replace(" V ", " W ").replace("eth0", "eth1");
    let text = format!(
        "vrrp_sync_group G {{\ngroup {{\nV\nW\n}}\ntrack_interface {{\neth2\n}}\nnotify /bin/n\n}}\n{}{second}",
        instance("track_interface {\neth3 weight 10\n}")
    );
    let config = conf(&text);
    assert_eq!((config.groups[0].members.as_slice(), config.groups[0].name.as_str()), (&[0, 1][..], "G"));
    let tracked: Vec<_> = config.instances.iter().map(|instance| instance.tracks.len()).collect();
    assert_eq!(tracked, [2, 1]);
    assert!(config.instances[0].tracks.iter().all(|track| track.check.weight == Weight::FAULT));
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    // A script with a weight is not run for a member, and one without can bring the group down.
    let scripts =
        "vrrp_script light {\nscript /bin/l\nweight -20\n}\nvrrp_script grave {\nscript /bin/g\n}\n";
    let scripted = text.replace("track_interface {\neth3 weight 10", "track_script {\nlight\ngrave");
    let config = conf(&format!("{scripts}{scripted}"));
    let tracked: Vec<&Target> = config.instances[0].tracks.iter().map(|track| &track.target).collect();
    assert_eq!(tracked, [&Target::Script(1), &Target::Interface("eth2".into())]);
    let expected = "k.conf:18: vrrp_instance V: track_script light is left out";
    assert!(config.warnings.len() == 1 && config.warnings[0].starts_with(expected), "{:?}", config.warnings);
    let weighed = scripted.replace("notify /bin/n", "sync_group_tracking_weight");
    assert_eq!(conf(&format!("{scripts}{weighed}")).instances[0].tracks.len(), 3);

    let kept = conf(&text.replace("notify /bin/n", "sync_group_tracking_weight"));
    assert_eq!(kept.instances[0].tracks[0].check.weight.points(), 10);
}

#[test]
fn what_is_wrong_is_said_with_its_line_and_its_cure() {
    let table: &[(&str, &str)] = &[
        (
            "priority 300",
            "k.conf:7: priority = 300 in vrrp_instance V is not accepted; accepted: a whole number, 1 to 255",
        ),
        (
            "prioritty 30",
            "k.conf:7: unknown keyword `prioritty` in vrrp_instance V, did you mean `priority`?",
        ),
        (
            "advert_int 0.5",
            "k.conf:7: vrrp_instance V: version 2 can't advertise every 50 cs: version 2 takes whole seconds",
        ),
        ("version 3\nadvert_int 41", "k.conf:8: vrrp_instance V: version 3 can't advertise every 41 s"),
        (
            "advert_int fast",
            "k.conf:7: advert_int = fast in vrrp_instance V is not accepted; accepted: seconds",
        ),
        (
            "state ACTIVATED",
            "k.conf:7: state = ACTIVATED in vrrp_instance V is not accepted; accepted: MASTER or BACKUP",
        ),
        ("track_script {\nchk\n}", "k.conf:8: name = chk in track_script of vrrp_instance V is not accepted"),
        (
            "virtual_ipaddress {\n10.0.0.300\n}",
            "k.conf:8: address = 10.0.0.300 in virtual_ipaddress of vrrp_instance V",
        ),
        ("virtual_ipaddress {\n10.0.0.2 dve eth0\n}", "did you mean `dev`?"),
        (
            "virtual_ipaddress {\n10.0.0.2 dev eth/9\n}",
            "k.conf:8: address = 10.0.0.2 dev eth/9 in virtual_ipaddress of vrrp_instance V is not accepted",
        ),
        ("virtual_ipaddress {\n10.0.0.1\n}", "10.0.0.1 is listed twice"),
        ("virtual_ipaddress {\nfe80::1\n}", "fe80::1 is not IPv4 like the first address"),
        (
            "authentication {\nauth_type AH\nauth_pass a\n}",
            "k.conf:8: `auth_type AH` in authentication of vrrp_instance V",
        ),
        (
            "authentication {\nauth_type PASS\n}",
            "k.conf:7: authentication of vrrp_instance V needs the key `auth_pass`",
        ),
        (
            "mcast_dst_ip 224.0.0.99",
            "k.conf:7: `mcast_dst_ip` in vrrp_instance V is not supported, and without it the address could go to another router",
        ),
        ("use_ipvlan", "`use_ipvlan` in vrrp_instance V is not supported"),
        ("dont_track_primary", "`dont_track_primary` in vrrp_instance V is not supported"),
        ("notify ./relative.sh", "a command with its whole path"),
        ("notify \"</dev/tcp/127.0.0.1/80\"", "vrrpd runs no shell: \"/bin/sh -c '…'\" does"),
        ("notify \"/bin/a 'b\"", "a command, in quotes if it has arguments"),
        ("unicast_peer {\nfe80::1\n}", "k.conf:7: vrrp_instance V: unicast peer fe80::1 is not IPv4"),
        ("unicast_peer {\n}", "no peer is named"),
        ("unicast_peer {\n10.0.0.2 min_tll 3\n}", "perhaps min_ttl and max_ttl with a number each"),
        ("unicast_src_ip fe80::1", "the source fe80::1 is not IPv4"),
        ("mcast_src_ip 10.0.0.1", "the source 10.0.0.1 floats"),
        ("interface eth0/1", "an interface's name, 1 to 15 characters"),
        ("nopreempt maybe", "nopreempt = maybe in vrrp_instance V is not accepted"),
        ("{\n}\n{", "`{` has no keyword before it"),
        ("~SEQ(A, 1, 3) ip", "sequences and lists (~SEQ, ~LST) are not supported"),
        ("notify \"/bin/a", "a quoted string does not end"),
        (
            "priority ${_RANDOM 1 9}",
            "k.conf:7: random numbers (${_RANDOM}) are not supported: write the number",
        ),
        ("notify /bin/\u{fffd}", "k.conf:7: this is not UTF-8"),
        ("includem nothing.conf", "nothing.conf can't be included: there is no such file"),
        ("includea no*.conf", "no*.conf can't be included: there is no such file"),
    ];
    for (lines, expected) in table {
        let said = read("k.conf", &instance(lines)).expect_err(lines).to_string();
        assert!(said.contains(expected), "{lines}\n{said}");
    }
    for (text, expected) in [
        ("", "k.conf:1: the configuration needs the key `vrrp_instance`"),
        ("}\n", "k.conf:1: `}` closes nothing"),
        ("vrrp_instance V {\n", "k.conf:1: `{` is not closed"),
        ("vrrp_instance {\n}\n", "a name without spaces"),
        ("vrrp_instance V\n", "nothing is said of it"),
        ("vrrp_instnce V {\n}\n", "did you mean `vrrp_instance`?"),
        ("vrrp_script s {\n}\n", "vrrp_script s needs the key `script`"),
        ("net_namespace red\n", "`net_namespace` in the top level is not supported"),
        ("vrrp_instance V {\n}\n", "k.conf:1: vrrp_instance V needs the key `interface`"),
        ("vrrp_sync_group G {\ngroup {\n}\n}\n", "k.conf:1: vrrp_sync_group G: no instance is in it"),
        (
            "vrrp_instance V {\ninterface eth0\nvirtual_router_id 5\nmcast_src_ip 2001:db8::5\nvirtual_ipaddress {\nfe80::5\n}\n}\n",
            "k.conf:4: vrrp_instance V: the source 2001:db8::5 is not link-local",
        ),
        ("vrrp_sync_group G {\ngroup {\nX\n}\n}\n", "group = X in vrrp_sync_group G is not accepted"),
        ("$A=${A}\nx ${A}\n", "a parameter stands for itself"),
    ] {
        let said = read("k.conf", text).expect_err(text).to_string();
        assert!(said.contains(expected), "{text}\n{said}");
    }
    let twice = format!("{0}{0}", instance(""));
    let said = read("k.conf", &twice).unwrap_err().to_string();
    for expected in [
        "k.conf:9: vrrp_instance V: the name is taken",
        "virtual_router_id 5 is that of V",
        "10.0.0.1 floats with V too",
    ] {
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let said = read("k.conf", &instance("priority 0\nnopreemt\nadvert_int x\nvirtual_router_id 256"))
        .unwrap_err()
        .to_string();
    assert_eq!(said.lines().count(), 4, "{said}");
}

#[test]
fn what_is_left_out_is_warned_of() {
    for (lines, expected) in [
        (
            "smtp_alert",
            "k.conf:7: vrrp_instance V: `smtp_alert` is left out: vrrpd sends no mail: use notify",
        ),
        ("virtual_routes {\n10.1.0.0/16 via 10.0.0.9\n}", "`virtual_routes` is left out"),
        ("state MASTER\nnopreempt", "k.conf:8: vrrp_instance V: `nopreempt` is left out"),
        ("version 3\nauthentication {\nauth_type PASS\nauth_pass a\n}", "authentication is left out"),
        ("virtual_ipaddress {\n10.0.0.2 label eth0:1\n}", "`label` is left out"),
        (
            "kernel_rx_buf_size 3",
            "k.conf:7: vrrp_instance V: `kernel_rx_buf_size` is passed over: it changes",
        ),
        ("lvs_sync_daemon_interface eth1", "`lvs_sync_daemon_interface` is left out: vrrpd does VRRP alone"),
        ("track_src_ip", "`track_src_ip` is left out: the source address is not watched"),
        ("notify relative.sh", "k.conf:7: vrrp_instance V: `relative.sh` is looked for in PATH"),
        ("track_interface {\neth0 weight 20\n}", "k.conf:7: vrrp_instance V: the weight of eth0 is left out"),
        ("include no*.conf", "k.conf:7: include: no*.conf can't be included: there is no such file"),
    ] {
        let warnings = conf(&instance(lines)).warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(expected), "{lines}: {warnings:?}");
    }
    for lines in ["accept", "no_accept", "native_ipv6", "check_unicast_src", "track_interface {\neth0\n}"] {
        assert_eq!(conf(&instance(lines)).warnings, [""; 0], "{lines}: it is so anyway");
    }
    let lvs = "virtual_server 10.0.0.1 80 {\nreal_server 10.0.0.2 80 {\nweight 1\n}\n}\n".repeat(2);
    let warnings = conf(&format!("{lvs}{}", instance(""))).warnings;
    assert!(
        warnings.len() == 1
            && warnings[0].starts_with("k.conf:1: virtual_server: the LVS parts are skipped (lines 1, 6): "),
        "{warnings:?}"
    );
    let alone = format!("vrrp_sync_group G {{\ngroup {{\nV\n}}\n}}\n{}", instance(""));
    let config = conf(&alone);
    assert_eq!(config.groups[0].members, [0]);
    assert!(config.warnings[0].starts_with("k.conf:1: vrrp_sync_group G: it has one instance alone"));
}

#[test]
fn warnings_come_in_the_order_of_the_lines_and_with_errors_too() {
    let text =
        instance("smtp_alert\nauthentication {\nauth_type PASS\nauth_pass a\n}\nvirtual_rules\ndebug 1")
            + "virtual_server 10.0.0.1 80 {\n}\nstatic_routes {\n}\n";
    let lines = |warnings: &[String]| -> Vec<usize> {
        warnings.iter().map(|warning| warning.split(':').nth(1).unwrap().parse().unwrap()).collect()
    };
    assert_eq!(lines(&conf(&text).warnings), [7, 8, 12, 13, 15, 17]);
    let problems = read("k.conf", &text.replace("_id 5", "_id 500")).unwrap_err();
    assert_eq!(problems.iter().count(), 1, "{problems}");
    assert_eq!(lines(problems.warnings()), [7, 8, 12, 13, 15, 17]);
}

/// Whoever tracks what is wrongly defined is not told that it is not defined.
#[test]
fn one_mistake_is_said_once() {
    let wrong = "vrrp_script s {\nscript </dev/null\n}\nvrrp_track_process p {\nquorum 1\n}\ntrack_file f {\nfile x\n}\n";
    let tracked = instance("track_script {\ns\n}\ntrack_process {\np\n}\ntrack_file {\nf\n}");
    let said = read("k.conf", &format!("{wrong}{tracked}")).unwrap_err().to_string();
    assert_eq!(said.lines().count(), 3, "{said}");
    let said = read("k.conf", &tracked).unwrap_err().to_string();
    assert_eq!(said.matches("what is defined at the top level").count(), 3, "{said}");
}

/// The first words of a file that keepalived's own users know, with what is not VRRP in it.
#[test]
fn a_whole_keepalived_conf_is_taken_and_what_is_not_vrrp_is_named() {
    let text = "! two directors\nnet_namespace_ipvs lvs\nglobal_defs {\nnotification_email {\na@b.c\n}\nsmtp_server 10.0.0.9\n\
        @first router_id FIRST\n@^first router_id OTHER\nlvs_flush\nvrrp_garp_interval 0.001\nenable_script_security\n}\n\
        $VIP=192.168.250.250\n$ADDRESSES= \\\nvirtual_ipaddress { \\\n${VIP}/24 dev eth0 label eth0:vip \\\n}\n\
        include conf.d/*.conf # none yet\nstatic_routes {\n10.5.0.0/16 via 192.168.250.1 dev eth0\n}\n\
        vrrp_script web {\nscript \"killall -0 'the proxy'\" # cheap\ninterval 2\nuser nobody\ntimeout 1\n}\n\
        vrrp_instance HA1 {\ninterface eth0\nvirtual_router_id 11\n@first priority 150\n@^first priority 100\n$ADDRESSES\n\
        track_script {\nweb\n}\nvirtual_routes {\n10.6.0.0/16 via 192.168.250.1\n}\n}\n\
        virtual_server 192.168.250.250 80 {\nlb_algo wlc\nreal_server 10.0.0.2 80 {\nTCP_CHECK {\nconnect_timeout 3\n}\n}\n}\n";
    for (id, priority, router_id) in [("first", 150, "FIRST"), ("second", 100, "OTHER")] {
        let disk = Disk { config_id: Some(id.into()) };
        let config = parse(Path::new("k.conf"), text, &disk).unwrap();
        let instance = &config.instances[0];
        assert_eq!(instance.router.priority, priority);
        assert_eq!(instance.router.addresses[0].to_string(), "192.168.250.250/24");
        assert_eq!(config.global.router_id.as_deref(), Some(router_id));
        assert_eq!(config.scripts[0].command.words, ["killall", "-0", "the proxy"]);
        let named: Vec<&str> = config
            .warnings
            .iter()
            .map(|warning| warning.split('`').nth(1).unwrap_or_else(|| warning.split(": ").nth(1).unwrap()))
            .collect();
        assert_eq!(
            named,
            [
                "net_namespace_ipvs",
                "notification_email",
                "smtp_server",
                "lvs_flush",
                "vrrp_garp_interval",
                "include",
                "static_routes",
                "killall",
                "label",
                "virtual_routes",
                "virtual_server"
            ]
        );
    }
}

#[test]
fn toml_says_where_it_is_wrong() {
    let good = THESIS_TOML;
    for (from, to, expected) in [
        ("priority = 150", "priority = 300", "v.toml:9: priority = 300 in vrrp_instance HA1 is not accepted"),
        (
            "priority = 150",
            "prioriti = 150",
            "v.toml:9: unknown keyword `prioriti` in vrrp_instance HA1, did you mean `priority`?",
        ),
        ("priority = 150", "priority = 1979-05-27", "v.toml:9: priority = 1979-05-27 in HA1 is not accepted"),
        ("priority = 150", "priority =", "v.toml:9: not TOML"),
        (
            "[\"192.168.250.250\"]",
            "\"192.168.250.250\"",
            "virtual_ipaddress = \"192.168.250.250\" in HA1 is not accepted; accepted: a list of strings",
        ),
        ("[\"192.168.250.250\"]", "[\"192.168.250.250\", 5]", "virtual_ipaddress = 5"),
        ("[vrrp_instance.HA1]", "[[vrrp_instance]]", "a table with a name, [vrrp_instance.NAME]"),
        ("[vrrp_instance.HA1]", "[vrp_instance.HA1]", "did you mean `vrrp_instance`?"),
    ] {
        let said = read("v.toml", &good.replace(from, to)).expect_err(to).to_string();
        assert!(said.contains(expected), "{to}\n{said}");
    }
    let off =
        read("v.toml", &good.replace("state = \"MASTER\"", "nopreempt = false\nuse_vmac = true")).unwrap();
    assert!(off.instances[0].router.preempt && off.instances[0].vmac.is_some());
}

#[test]
fn the_sample_is_valid_and_shows_every_block() {
    let sample = include_str!("../../../vrrpd.toml");
    let config = read("vrrpd.toml", sample).unwrap();
    assert_eq!((config.instances.len(), config.groups.len()), (2, 1));
    assert_eq!((config.scripts.len(), config.processes.len(), config.files.len()), (1, 1, 1));
    assert_eq!(config.warnings, [""; 0]);
}

/// Words that mean something, so that chance gets far.
const DIGITS: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// Keys on files: in digits with an end of line, and in characters that others can read too.
fn keys() -> Shelf {
    Shelf(
        [
            ("/keys/one", "hex:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n"),
            ("/open/two", "correct horse battery staple, and more"),
            ("/keys/short", "too short"),
        ]
        .map(|(file, text)| (file.into(), text))
        .into(),
    )
}

fn signed(lines: &str) -> Result<Config, Problems> {
    parse(Path::new("k.conf"), &instance(&format!("auth_hmac {{\n{lines}\n}}")), &keys())
}

#[test]
fn signed_adverts_read_in_both_forms() {
    let one = Key::parse(1, &format!("hex:{DIGITS}")).unwrap();
    let two = Key::parse(2, "correct horse battery staple, and more").unwrap();
    let plain = signed(&format!("key 1 hex:{DIGITS}\nactive_key 1")).unwrap();
    assert_eq!(plain.instances[0].router.hmac, Some(Hmac::new(one.clone())));
    assert!(plain.warnings.is_empty(), "{:?}", plain.warnings);

    let lines = "key 1 file:/keys/one\nkey 2 file:/open/two\nactive_key 2\nmode permissive\ntime_window 7\nanti_replay time";
    let all = signed(lines).unwrap();
    let expected = Hmac {
        keys: vec![one, two],
        active_key: 2,
        anti_replay: AntiReplay::Time,
        time_window: Some(Duration::from_secs(7)),
        mode: Mode::Permissive,
    };
    assert_eq!(all.instances[0].router.hmac.as_ref(), Some(&expected));
    assert_eq!(
        all.warnings,
        [
            "k.conf:9: auth_hmac of vrrp_instance V: /open/two can be read by others than its owner: chmod 600 /open/two"
        ]
    );

    let conf = instance(&format!("auth_hmac {{\n{lines}\n}}"));
    let toml = convert(Path::new("k.conf"), &conf, &keys()).unwrap();
    assert!(toml.contains(r#"key = [[1, "file:/keys/one"], [2, "file:/open/two"]]"#), "{toml}");
    let again = parse(Path::new("v.toml"), &toml, &keys()).unwrap();
    assert_eq!(again.instances[0].router.hmac.as_ref(), Some(&expected));

    let table = format!(
        "[vrrp_instance.V]\ninterface = \"eth0\"\nvirtual_router_id = 5\nvirtual_ipaddress = [\"10.0.0.1/24\"]\n\
         [vrrp_instance.V.auth_hmac]\nkey = [1, \"hex:{DIGITS}\"]\nactive_key = 1\nmode = \"receive-only\"\nanti_replay = \"monotonic\"\n"
    );
    let hmac = parse(Path::new("v.toml"), &table, &keys()).unwrap().instances.remove(0).router.hmac.unwrap();
    assert_eq!((hmac.mode, hmac.anti_replay), (Mode::ReceiveOnly, AntiReplay::Monotonic));
}

#[test]
fn mistakes_in_keys_have_their_line_and_repeat_no_secret() {
    let secret = "hex:deadbeef";
    let table = [
        ("active_key 1", "k.conf:7: auth_hmac of vrrp_instance V needs the key `key`"),
        ("key 1 file:/keys/one", "k.conf:7: auth_hmac of vrrp_instance V needs the key `active_key`"),
        ("key 1 hex:deadbeef\nactive_key 1", "k.conf:8: auth_hmac of vrrp_instance V: key 1 has 4 bytes"),
        (
            "key 1 hex:deadbeefs\nactive_key 1",
            "k.conf:8: auth_hmac of vrrp_instance V: key 1 is not hexadecimal",
        ),
        ("key 0 hex:deadbeef\nactive_key 1", "k.conf:8: auth_hmac of vrrp_instance V: `key` takes an id"),
        ("key hex:deadbeef\nactive_key 1", "`key` takes an id, 1 to 255"),
        ("key 1 hex:deadbeef too\nactive_key 1", "`key` takes an id, 1 to 255"),
        ("key 1 file:/keys/none\nactive_key 1", "the file /keys/none of key 1 can't be read: "),
        (
            "key 1 file:keys/one\nactive_key 1",
            "the file keys/one of key 1 is not a whole path: write file:/like/this",
        ),
        (
            "key 1 file:/keys/short\nactive_key 1",
            "key 1 has 9 bytes: give it 32 to 64, best 32 random ones (openssl rand -hex 32) in /keys/short",
        ),
        (
            "key 1 file:/keys/one\nactive_key 2",
            "k.conf:7: vrrp_instance V: the active key 2 is not among the keys",
        ),
        (
            "key 1 file:/keys/one\nkey 1 file:/open/two\nactive_key 1",
            "k.conf:7: vrrp_instance V: key 1 is given twice",
        ),
        (
            "key 1 file:/keys/one\nactive_key 256",
            "k.conf:9: active_key = 256 in auth_hmac of vrrp_instance V is not accepted; accepted: a whole number, 1 to 255",
        ),
        (
            "key 1 file:/keys/one\nactive_key 1\nmode strict",
            "k.conf:10: mode = strict in auth_hmac of vrrp_instance V is not accepted; accepted: enforce, permissive, or receive-only",
        ),
        ("key 1 file:/keys/one\nactive_key 1\nanti_replay never", "accepted: time or monotonic"),
        (
            "key 1 file:/keys/one\nactive_key 1\ntime_window 301",
            "k.conf:10: time_window = 301 in auth_hmac of vrrp_instance V is not accepted; accepted: seconds",
        ),
        ("key 1 file:/keys/one\nactive_kye 1", "did you mean `active_key`?"),
    ];
    for (lines, expected) in table {
        let said = signed(lines).expect_err(lines).to_string();
        assert!(said.contains(expected), "{lines}\n{said}");
        assert!(!said.contains("deadbeef"), "{said}");
    }
    for value in
        [r#""1 hex:deadbeef""#, r#"[{ id = 1, secret = "hex:deadbeef" }]"#, r#"{ id = "hex:deadbeef" }"#]
    {
        let text = format!("[vrrp_instance.V]\nauth_hmac = {{ active_key = 1, key = {value} }}\n");
        let said = read("v.toml", &text).expect_err(value).to_string();
        assert!(said.contains("v.toml:2: ") && !said.contains(secret), "{said}");
    }
}

#[test]
fn signatures_stand_alone_and_strict_mode_demands_them() {
    let block = "auth_hmac {\nkey 1 file:/keys/one\nactive_key 1\nmode permissive\n}\n";
    let both = instance(&format!("authentication {{\nauth_type PASS\nauth_pass a\n}}\n{block}"));
    let both = parse(Path::new("k.conf"), &both, &keys()).unwrap();
    assert_eq!(both.instances[0].router.auth, Auth::None);
    assert_eq!(
        both.warnings,
        ["k.conf:7: vrrp_instance V: authentication is left out, as keepalived does: auth_hmac replaces it"]
    );
    let strict = parse(Path::new("k.conf"), &instance(&format!("strict_mode on\n{block}")), &keys());
    let said = strict.unwrap_err().to_string();
    assert!(said.contains("k.conf:8: vrrp_instance V: strict mode takes signed adverts alone"), "{said}");
    let window = format!("{block}\n").replace("mode permissive", "anti_replay monotonic\ntime_window 9");
    let window = parse(Path::new("k.conf"), &instance(&window), &keys()).unwrap();
    assert!(window.warnings[0].contains("`time_window` is left out"), "{:?}", window.warnings);
}

#[test]
fn the_environment_names_files() {
    let package = std::env::var("CARGO_PKG_NAME").expect("cargo sets it");
    let text = instance("garp_master_repeat 3").replace("instance V", "instance ${_ENV CARGO_PKG_NAME}");
    assert_eq!(conf(&text).instances[0].name, package);
    let text = instance("").replace("instance V", "instance ${_ENV NO_SUCH_VARIABLE_HERE}");
    assert!(read("k.conf", &text).is_err());
}

#[test]
fn only_regular_files_are_included() {
    let said = Disk::default().read(Path::new("/dev/zero")).expect_err("it has no end").to_string();
    assert_eq!(said, "not a regular file");
}

const WORDS: &[&str] = &[
    "auth_hmac",
    "key",
    "active_key",
    "hex:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    "file:/keys/one",
    "vrrp_instance",
    "vrrp_sync_group",
    "vrrp_script",
    "vrrp_track_process",
    "track_file",
    "global_defs",
    "group",
    "V",
    "W",
    "interface",
    "eth0",
    "virtual_router_id",
    "priority",
    "advert_int",
    "0.5",
    "1",
    "7",
    "255",
    "-20",
    "weight",
    "reverse",
    "virtual_ipaddress",
    "virtual_ipaddress_excluded",
    "unicast_peer",
    "10.0.0.1/24",
    "fe80::1",
    "dev",
    "track_script",
    "authentication",
    "auth_type",
    "auth_pass",
    "PASS",
    "notify",
    "/bin/true",
    "script",
    "process",
    "file",
    "version",
    "2",
    "3",
    "nopreempt",
    "state",
    "MASTER",
    "include",
    "*",
    "$A=",
    "$A",
    "${A}",
    "${_HASH}",
    "@x",
    "@^x",
    "~SEQ",
    "\\",
    "\"",
    "'",
    "#",
    "!",
    "{",
    "}",
    "{",
    "}",
    "{\n",
    "}\n",
    "\n",
    "\n",
    "\n",
    "[",
    "]",
    "=",
    ",",
    ".",
    "[vrrp_instance.V]\n",
    "é",
    "\u{1b}",
];

fn soup() -> impl Strategy<Value = String> {
    let word = prop_oneof![9 => prop::sample::select(WORDS).prop_map(str::to_owned), 1 => "\\PC{0,4}"];
    prop::collection::vec(word, 0..60).prop_map(|words| words.join(" "))
}

/// A file is one that can be run, or every mistake in it has its line.
fn judged(file: &str, text: &str) -> Result<(), TestCaseError> {
    match read(file, text) {
        Ok(config) => {
            for instance in &config.instances {
                prop_assert_eq!(instance.router.validate(), Ok(()));
            }
        }
        Err(problems) => {
            let lines = text.split('\n').count();
            for problem in problems.iter() {
                let said = problem.to_string();
                let rest = said.strip_prefix(file).and_then(|rest| rest.strip_prefix(':')?.split_once(": "));
                let line: Option<usize> = rest.and_then(|(line, _)| line.parse().ok());
                prop_assert!(line.is_some_and(|line| (1..=lines).contains(&line)), "{lines} lines: {said}");
                prop_assert!(!said.contains(char::is_control), "{said:?}");
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text_is_judged(text in soup()) {
        judged("k.conf", &text)?;
        judged("v.toml", &text)?;
        let _ = convert(Path::new("k.conf"), &text, &Shelf::default());
    }

    /// A good file with a line lost, doubled, or replaced.
    #[test]
    fn a_damaged_file_is_judged(at in 0_usize..30, how in 0..3, text in soup()) {
        for (file, good) in [("k.conf", THESIS), ("v.toml", THESIS_TOML)] {
            let mut lines: Vec<&str> = good.lines().collect();
            let at = at % lines.len();
            match how {
                0 => drop(lines.remove(at)),
                1 => lines.insert(at, lines[at]),
                _ => lines[at] = &text,
            }
            judged(file, &lines.join("\n"))?;
        }
    }
}
