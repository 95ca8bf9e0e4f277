//! Reads configurations as xl does, as far as xl.cfg(5) is needed here; the true one is the judge of it (`tests/xl.rs`).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The CPUs of the host.
pub const CPUS: u32 = 16;

#[derive(Debug, PartialEq)]
enum Setting {
    Number(u64),
    Text(String),
    List(Vec<String>),
}

/// What `xl -N create` prints of a configuration.
pub fn to_json(config: &str) -> Result<Value, String> {
    let settings = parse(config)?;
    let text = |key: &str| match settings.get(key) {
        None => Ok(None),
        Some(Setting::Text(text)) => Ok(Some(text.as_str())),
        Some(other) => Err(format!("{key} is no string: {other:?}")),
    };
    let number = |key: &str| match settings.get(key) {
        None => Ok(None),
        Some(Setting::Number(number)) => Ok(Some(*number)),
        Some(Setting::Text(text)) => {
            text.parse().map(Some).map_err(|_| format!("warning: parameter `{key}' is not a valid number"))
        }
        Some(other) => Err(format!("{key} is no number: {other:?}")),
    };
    let list = |key: &str| match settings.get(key) {
        Some(Setting::List(list)) => list.as_slice(),
        _ => &[],
    };
    let truth =
        |key: &str| Ok::<_, String>(number(key)?.map(|number| if number == 0 { "False" } else { "True" }));

    let kind = text("type")?.unwrap_or("pv");
    let mut creation = Map::new();
    put(&mut creation, "type", Some(kind));
    put(&mut creation, "name", text("name")?.ok_or("xl: config parsing error: \"name\" must be set")?.into());
    let uuid = text("uuid")?.map_or_else(|| Ok(uuid::Uuid::from_u128(fastrand::u128(..))), str::parse);
    put(&mut creation, "uuid", Some(uuid.map_err(|_| "Failed to parse UUID")?.to_string()));
    put(&mut creation, "run_hotplug_scripts", Some("True"));

    let mut build = Map::new();
    let vcpus = number("vcpus")?.unwrap_or(1);
    let most = number("maxvcpus")?.unwrap_or(vcpus);
    if vcpus > most {
        return Err("xl: maxvcpus < vcpus".into());
    }
    put(&mut build, "max_vcpus", Some(most));
    put(&mut build, "avail_vcpus", Some((0..vcpus).collect::<Vec<u64>>()));
    if settings.contains_key("cpus") {
        let pins = list("cpus").iter().map(|cpus| {
            let all = cpus == "all";
            let cpus: lb_affinity::CpuSet =
                if all { Ok(lb_affinity::CpuSet::first_n(CPUS)) } else { cpus.parse() }
                    .map_err(|_| "cpus")?;
            Ok::<_, String>(cpus.iter().filter(|cpu| *cpu < CPUS).collect::<Vec<u32>>())
        });
        put(&mut build, "vcpu_hard_affinity", Some(pins.collect::<Result<Vec<_>, _>>()?));
        put(&mut build, "numa_placement", Some("False"));
    }
    let memory = number("memory")?.ok_or("memory")?;
    put(&mut build, "max_memkb", Some(number("maxmem")?.unwrap_or(memory) * 1024));
    put(&mut build, "target_memkb", Some(memory * 1024));
    put(&mut build, "localtime", truth("localtime")?);
    put(&mut build, "kernel", text("kernel")?);
    put(&mut build, "bootloader", text("bootloader")?);
    put(&mut build, "ramdisk", text("ramdisk")?);
    put(&mut build, "cmdline", text("cmdline")?);
    put(&mut build, "acpi", truth("acpi")?);
    put(&mut build, "apic", truth("apic")?.filter(|_| kind == "hvm"));
    let mut own = Map::new();
    if kind == "hvm" {
        put(&mut own, "pae", truth("pae")?);
        let mut vnc = Map::new();
        put(&mut vnc, "enable", truth("vnc")?);
        put(&mut vnc, "listen", text("vnclisten")?);
        put(&mut vnc, "display", number("vncdisplay")?);
        put(&mut vnc, "findunused", truth("vncunused")?);
        put(&mut own, "vnc", Some(vnc));
        put(&mut own, "keymap", text("keymap")?);
        put(&mut own, "serial", text("serial")?);
        put(&mut own, "boot", text("boot")?);
        put(&mut own, "usb", truth("usb")?);
        put(&mut own, "usbdevice", text("usbdevice")?);
    }
    put(&mut build, &format!("type.{kind}"), Some(own));

    let mut config = Map::new();
    put(&mut config, "c_info", Some(creation));
    put(&mut config, "b_info", Some(build));
    for (key, place, read) in
        [("disk", "disks", disk as fn(&[&str], u64) -> Result<Value, String>), ("vif", "nics", nic)]
    {
        let parts = (0..).zip(list(key)).map(|(number, words)| read(&[words], number));
        let parts = parts.collect::<Result<Vec<Value>, String>>()?;
        put(&mut config, place, (!parts.is_empty()).then_some(parts));
    }
    for (key, default) in [("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")] {
        let action = match text(key)?.unwrap_or(default) {
            "rename-restart" => "restart_rename",
            "coredump-destroy" => "coredump_destroy",
            action @ ("restart" | "preserve" | "destroy") => action,
            other => return Err(format!("Unknown {key} action \"{other}\" specified")),
        };
        put(&mut config, key, Some(action).filter(|action| *action != "destroy"));
    }
    Ok(Value::Object(config))
}

fn put<T: serde::Serialize>(map: &mut Map<String, Value>, key: &str, value: Option<T>) {
    map.extend(value.map(|value| (key.to_owned(), json!(value))));
}

/// A disk from its words (xl-disk-configuration(5)): keys with values; the target comes last and is all that is left.
pub fn disk(words: &[&str], _: u64) -> Result<Value, String> {
    let (mut disk, mut write) = (Map::new(), true);
    for mut rest in words.iter().copied() {
        while !rest.is_empty() {
            if let Some(target) = rest.strip_prefix("target=") {
                put(&mut disk, "pdev_path", Some(target.strip_suffix(',').unwrap_or(target)));
                break;
            }
            let (word, left) = rest.split_once(',').unwrap_or((rest, ""));
            rest = left;
            match word.split_once('=').ok_or_else(|| format!("unknown value for format: {word}"))? {
                ("format", format @ ("raw" | "qcow2" | "vhd" | "empty")) => {
                    put(&mut disk, "format", Some(format))
                }
                ("vdev", vdev) if ["hd", "sd", "xvd"].iter().any(|prefix| vdev.starts_with(prefix)) => {
                    put(&mut disk, "vdev", Some(vdev));
                }
                ("devtype", "cdrom") => {
                    put(&mut disk, "is_cdrom", Some(1));
                    put(&mut disk, "removable", Some(1));
                }
                ("access", access @ ("ro" | "rw")) => write = access == "rw",
                ("script", script) => put(&mut disk, "script", Some(script)),
                ("backendtype", backend @ ("phy" | "qdisk")) => put(&mut disk, "backend", Some(backend)),
                (key, value) => {
                    return Err(format!("config parsing error in disk specification: {key}={value}"));
                }
            }
        }
    }
    let writes = write && !disk.contains_key("is_cdrom");
    put(&mut disk, "readwrite", writes.then_some(1));
    Ok(Value::Object(disk))
}

/// A network interface from its words (xl-network-configuration(5)).
pub fn nic(words: &[&str], number: u64) -> Result<Value, String> {
    let mut nic = Map::new();
    put(&mut nic, "devid", Some(number));
    for word in words.iter().flat_map(|words| words.split(',')) {
        match word.split_once('=').ok_or_else(|| format!("unrecognized argument `{word}'"))? {
            (key @ ("mac" | "bridge" | "script" | "model" | "ip"), value) => put(&mut nic, key, Some(value)),
            ("type", "ioemu") => put(&mut nic, "nictype", Some("vif_ioemu")),
            ("type", "vif") => put(&mut nic, "nictype", Some("vif")),
            _ => return Err(format!("unrecognized argument `{word}'")),
        }
    }
    Ok(Value::Object(nic))
}

fn parse(config: &str) -> Result<BTreeMap<String, Setting>, String> {
    let mut settings = BTreeMap::new();
    for (number, line) in (1..).zip(config.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| format!("config:{number}: config parsing error near `{line}': {what}");
        let (key, value) = line.split_once('=').ok_or_else(|| wrong("syntax error"))?;
        let value = value.trim();
        let setting = if let Some(mut rest) = value.strip_prefix('[') {
            let mut list = Vec::new();
            loop {
                rest = rest.trim_start();
                if rest == "]" {
                    break Setting::List(list);
                }
                let (text, left) = quoted(rest).map_err(wrong)?;
                list.push(text);
                rest = left.trim_start();
                rest = rest.strip_prefix(',').unwrap_or(rest);
            }
        } else if value.starts_with(['"', '\'']) {
            match quoted(value).map_err(wrong)? {
                (text, "") => Setting::Text(text),
                _ => return Err(wrong("syntax error")),
            }
        } else {
            Setting::Number(value.parse().map_err(|_| wrong("syntax error"))?)
        };
        settings.insert(key.trim().to_owned(), setting);
    }
    Ok(settings)
}

/// A string, and what follows it.
fn quoted(text: &str) -> Result<(String, &str), &'static str> {
    let mut characters = text.char_indices();
    let quote = characters.next().map(|(_, quote)| quote).filter(|quote| matches!(quote, '"' | '\''));
    let quote = quote.ok_or("syntax error")?;
    let mut read = String::new();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some((_, escaped @ ('\\' | '"' | '\''))) => read.push(escaped),
                _ => return Err("invalid character after backlash in quoted string"),
            },
            end if end == quote => return Ok((read, &text[at + 1..])),
            other => read.push(other),
        }
    }
    Err("unterminated string")
}
