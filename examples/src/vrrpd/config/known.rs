//! What keepalived knows and vrrpd does not: left out with a warning, or refused.

/// What becomes of a keyword that vrrpd does not act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// What it asks for holds here anyway.
    Met,
    /// It changes nothing here.
    Needless,
    /// It is left out, and this is missed.
    LeftOut(&'static str),
    /// It decides who has the address.
    Refused(&'static str),
}

use Fate::{LeftOut, Met, Needless, Refused};

/// Whether and how keepalived's keyword at the top level, in `global_defs`, or in a block can be done without.
pub(super) fn fate(block: &str, keyword: &str) -> Option<Fate> {
    let table = match block {
        "" => TOP,
        "global_defs" => GLOBAL,
        "vrrp_instance" => INSTANCE,
        "vrrp_sync_group" => GROUP,
        _ => &[],
    };
    let listed = table.iter().find(|(name, _)| *name == keyword).map(|&(_, fate)| fate);
    listed.or_else(|| {
        let family = |prefix: &str| keyword.starts_with(prefix);
        let of_others = family("lvs_") || family("checker_") || family("bfd_") || family("smtp_");
        (block == "global_defs" && of_others).then_some(LeftOut("vrrpd does VRRP alone"))
    })
}

/// LVS parts have one warning together, so they are told apart.
pub(super) const LVS: &[&str] = &["virtual_server", "virtual_server_group", "SSL", "real_server"];

const ELSEWHERE: &str = "start vrrpd with `ip netns exec NAME vrrpd …`";
const MAIL: &str = "vrrpd sends no mail: use notify";
const PLAIN: &str = "set it up with the system's network configuration";
const INCLUDES: &str = "an include that finds nothing is a warning: write includea to make it an error";
const GROUP_ADDRESS: &str = "vrrpd uses 224.0.0.18 and ff02::12; remove it here and on the other routers";

const TOP: &[(&str, Fate)] = &[
    ("net_namespace", Refused(ELSEWHERE)),
    ("net_namespace_ipvs", Needless),
    ("namespace_with_ipsets", Needless),
    ("instance", Needless),
    ("use_pid_dir", Needless),
    ("linkbeat_use_polling", Needless),
    ("linkbeat_interfaces", Needless),
    ("child_wait_time", Needless),
    ("include_check", LeftOut(INCLUDES)),
    ("interface_up_down_delays", LeftOut("an interface counts as down at once")),
    ("static_ipaddress", LeftOut(PLAIN)),
    ("static_routes", LeftOut(PLAIN)),
    ("static_rules", LeftOut(PLAIN)),
    ("track_group", LeftOut("static addresses and routes are not tracked")),
    ("garp_group", LeftOut("announcements are sent without a pause")),
    ("bfd_instance", LeftOut("vrrpd has no BFD")),
];

const GLOBAL: &[(&str, Fate)] = &[
    ("net_namespace", Refused(ELSEWHERE)),
    ("vrrp_mcast_group4", Refused(GROUP_ADDRESS)),
    ("vrrp_mcast_group6", Refused(GROUP_ADDRESS)),
    ("vrrp_down_timer_adverts", Refused("three adverts is what the RFCs say; remove it on all routers")),
    ("notification_email", LeftOut(MAIL)),
    ("notification_email_from", LeftOut(MAIL)),
    ("no_email_faults", Needless),
    ("tmp_config_directory", Needless),
    ("config_save_dir", Needless),
    ("process_names", Needless),
    ("process_name", Needless),
    ("vrrp_process_name", Needless),
    ("startup_script", LeftOut("run it before vrrpd")),
    ("startup_script_timeout", Needless),
    ("shutdown_script", LeftOut("run it after vrrpd")),
    ("shutdown_script_timeout", Needless),
    ("vrrp_garp_interval", LeftOut("announcements are sent without a pause")),
    ("vrrp_gna_interval", LeftOut("announcements are sent without a pause")),
    ("vrrp_garp_extra_if", LeftOut("other interfaces get no announcements of their own")),
    ("vrrp_higher_prio_send_advert", LeftOut("a router that yields says nothing")),
    ("nftables", LeftOut("vrrpd sets up no firewall")),
    ("nftables_priority", Needless),
    ("nftables_counters", Needless),
    ("nftables_ifindex", Needless),
    ("nftables_ipvs", Needless),
    ("nftables_ipvs_priority", Needless),
    ("nftables_ipvs_start_fwmark", Needless),
    ("vrrp_iptables", LeftOut("vrrpd sets up no firewall")),
    ("vrrp_ipsets", Needless),
    ("disable_local_igmp", Needless),
    ("vrrp_check_unicast_src", Met),
    ("vrrp_notify_priority_changes", LeftOut("priorities are in the log and in `vrrpd status`")),
    ("max_auto_priority", Needless),
    ("min_auto_priority_delay", Needless),
    ("vrrp_priority", LeftOut("start vrrpd with nice(1), or set vrrp_rt_priority")),
    ("vrrp_cpu_affinity", LeftOut("start vrrpd with taskset(1)")),
    ("vrrp_rlimit_rttime", Needless),
    ("snmp_socket", LeftOut("vrrpd has no SNMP: see `vrrpd status --json`")),
    ("enable_snmp_vrrp", LeftOut("vrrpd has no SNMP: see `vrrpd status --json`")),
    ("enable_snmp_checker", Needless),
    ("enable_snmp_rfc", LeftOut("vrrpd has no SNMP: see `vrrpd status --json`")),
    ("enable_snmp_rfcv2", LeftOut("vrrpd has no SNMP: see `vrrpd status --json`")),
    ("enable_snmp_rfcv3", LeftOut("vrrpd has no SNMP: see `vrrpd status --json`")),
    ("enable_traps", LeftOut("vrrpd has no SNMP: use notify")),
    ("enable_dbus", LeftOut("vrrpd has no D-Bus: see `vrrpd status --json`")),
    ("dbus_service_name", Needless),
    ("notify_fifo", LeftOut("use notify")),
    ("notify_fifo_script", LeftOut("use notify")),
    ("vrrp_notify_fifo", LeftOut("use notify")),
    ("vrrp_notify_fifo_script", LeftOut("use notify")),
    ("fifo_write_vrrp_states_on_reload", Needless),
    ("dynamic_interfaces", Met),
    ("vrrp_netlink_cmd_rcv_bufs", Needless),
    ("vrrp_netlink_cmd_rcv_bufs_force", Needless),
    ("vrrp_netlink_monitor_rcv_bufs", Needless),
    ("vrrp_netlink_monitor_rcv_bufs_force", Needless),
    ("process_monitor_rcv_bufs", Needless),
    ("process_monitor_rcv_bufs_force", Needless),
    ("vrrp_rx_bufs_policy", Needless),
    ("vrrp_rx_bufs_multiplier", Needless),
    ("rs_init_notifies", Needless),
    ("no_checker_emails", Needless),
    ("umask", Needless),
    ("default_interface", Needless),
    ("log_unknown_vrids", LeftOut("see `vrrpd decode` with a capture")),
    ("vmac_addr_prefix", Needless),
    ("random_seed", Needless),
    ("reload_check_config", Met),
    ("include_check", LeftOut(INCLUDES)),
    ("reload_time_file", LeftOut("send SIGHUP")),
    ("reload_repeat", Needless),
    ("reload_file", LeftOut("send SIGHUP")),
    ("data_use_instance", Needless),
];

const INSTANCE: &[(&str, Fate)] = &[
    ("vrf", Refused("name the interface")),
    ("use_ipvlan", Refused("use use_vmac, or no interface of its own")),
    ("mcast_dst_ip", Refused(GROUP_ADDRESS)),
    ("track_bfd", Refused("track a script that asks the BFD daemon")),
    ("down_timer_adverts", Refused("three adverts is what the RFCs say; remove it on all routers")),
    ("dont_track_primary", Refused("an instance is always at fault while its interface is down; remove it")),
    ("unicast_fault_no_peer", Met),
    ("use_vmac_addr", LeftOut("addresses on other interfaces have those interfaces' MAC addresses")),
    ("native_ipv6", Met),
    ("track_src_ip", LeftOut("the source address is not watched: use track_script")),
    ("check_unicast_src", Met),
    ("old_unicast_checksum", Refused("upgrade the peers to keepalived 1.3.7 or later")),
    ("garp_extra_if", LeftOut("other interfaces get no announcements of their own")),
    ("higher_prio_send_advert", LeftOut("a router that yields says nothing")),
    ("promote_secondaries", LeftOut("set it with sysctl net.ipv4.conf.IF.promote_secondaries")),
    ("virtual_routes", LeftOut("routes do not move with the address: use notify_master and notify_backup")),
    ("virtual_rules", LeftOut("rules do not move with the address: use notify_master and notify_backup")),
    ("debug", Needless),
    ("notify_deleted", LeftOut("notify_stop runs when an instance is removed")),
    ("notify_master_rx_lower_pri", LeftOut("split brain is in the log and in `vrrpd status`")),
    ("notify_priority_changes", LeftOut("priorities are in the log and in `vrrpd status`")),
    ("smtp_alert", LeftOut(MAIL)),
    ("kernel_rx_buf_size", Needless),
    ("linkbeat_use_polling", Needless),
    ("lvs_sync_daemon_interface", LeftOut("vrrpd does VRRP alone")),
];

const GROUP: &[(&str, Fate)] = &[
    ("track_bfd", Refused("track a script that asks the BFD daemon")),
    ("notify_deleted", LeftOut("notify_stop runs when a group is removed")),
    ("notify_priority_changes", LeftOut("priorities are in the log and in `vrrpd status`")),
    ("smtp_alert", LeftOut(MAIL)),
];
