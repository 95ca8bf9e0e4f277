//! A stand-in for `xl` of Xen 4.17.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::xl_config::{self, CPUS};
use super::{Answer, ask};

/// The host's memory, in MiB, and what of it Domain-0 has.
const MEMORY: u64 = 16_384;
const OWN_MEMORY: u64 = 2048;

#[derive(Default, Deserialize, Serialize)]
struct Host {
    last: u32,
    domains: Vec<Domain>,
}

#[derive(Clone, Deserialize, Serialize)]
struct Domain {
    domid: u32,
    config: Value,
    paused: bool,
    /// In its place when it has ended and stays: `s` or `c`.
    ended: Option<char>,
    /// Seconds since 1970.
    started: f64,
}

impl Domain {
    fn name(&self) -> &str {
        self.config["c_info"]["name"].as_str().unwrap()
    }

    fn memory(&self) -> u64 {
        self.config["b_info"]["target_memkb"].as_u64().unwrap() / 1024
    }

    fn row(&self) -> String {
        let vcpus = self.config["b_info"]["avail_vcpus"].as_array().unwrap().len();
        let at = |has: bool, letter| if has { letter } else { '-' };
        let runs = !self.paused && self.ended.is_none();
        let flags: String = [
            at(runs, 'r'),
            '-',
            at(self.paused, 'p'),
            at(self.ended.is_some(), 's'),
            at(self.ended == Some('c'), 'c'),
            '-',
        ]
        .into_iter()
        .collect();
        let time = (now() - self.started) / 10.0;
        format!(
            "{:<40} {:>5} {:>5} {vcpus:>5}     {flags}  {time:>8.1}\n",
            self.name(),
            self.domid,
            self.memory()
        )
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Why it fails: its words.
type Done = Result<String, String>;

pub fn answer(directory: &Path, arguments: &[&str]) -> Answer {
    match ask(&directory.join("xl.json"), |host: &mut Host| host.obey(arguments)) {
        Ok(said) => Answer::says(said),
        Err(words) => Answer::fails(format!("{words}\n")),
    }
}

impl Host {
    fn obey(&mut self, arguments: &[&str]) -> Done {
        match arguments {
            ["list"] => Ok(self.table()),
            ["list", "-l", id] => {
                let at = self.find(id)?;
                let Domain { domid, config, .. } = &self.domains[at];
                Ok(serde_json::to_string_pretty(&json!([{"domid": domid, "config": config}])).unwrap())
            }
            ["info"] => Ok(self.info()),
            ["-N", "create", path] => {
                let config =
                    fs::read_to_string(path).map_err(|_| format!("Failed to read config file: {path}"))?;
                xl_config::to_json(&config).map(|json| serde_json::to_string_pretty(&json).unwrap())
            }
            ["create", "-q", path] => self.create(path),
            ["shutdown", "-F", id] => self.end(id, "on_poweroff", Some('s')),
            ["reboot", "-F", id] => self.end(id, "on_reboot", Some('s')),
            ["destroy", id] => {
                let at = self.find(id)?;
                self.domains.remove(at);
                Ok(String::new())
            }
            ["pause", id] => self.change(id, |domain| domain.paused = true),
            ["unpause", id] => self.change(id, |domain| domain.paused = false),
            ["vcpu-set", id, count] => {
                let build = self.build(id)?;
                let count: u64 = count.parse().map_err(|_| "Error: Invalid argument.")?;
                if count > build["max_vcpus"].as_u64().unwrap() {
                    return Err(format!(
                        "libxl: error: libxl_domain.c: libxl_set_vcpuonline: Domain {id}:Requested {count} VCPUs, however maximum is {}!",
                        build["max_vcpus"]
                    ));
                }
                build["avail_vcpus"] = json!((0..count).collect::<Vec<u64>>());
                Ok(String::new())
            }
            ["mem-set", id, amount] => {
                let build = self.build(id)?;
                let kib = amount.strip_suffix('k').and_then(|kib| kib.parse::<u64>().ok());
                let kib = kib.ok_or_else(|| format!("invalid memory size: {amount}"))?;
                if kib > build["max_memkb"].as_u64().unwrap() {
                    return Err(format!(
                        "libxl: error: libxl_mem.c: libxl_set_memory_target: Domain {id}:memory_dynamic_max must be less than or equal to memory_static_max"
                    ));
                }
                build["target_memkb"] = json!(kib);
                Ok(String::new())
            }
            ["vcpu-pin", id, vcpu, cpus] => self.pin(id, vcpu, cpus),
            ["block-attach", id, words @ ..] => {
                let disk = xl_config::disk(words, 0)?;
                if !fs::exists(disk["pdev_path"].as_str().unwrap_or_default()).unwrap() {
                    return Err(format!(
                        "libxl: error: libxl_device.c: disk_try_backend: Disk vdev={} failed to stat: {}: No such file or directory",
                        disk["vdev"], disk["pdev_path"]
                    ));
                }
                self.attach(id, "disks", "vdev", disk)
            }
            ["network-attach", id, words @ ..] => {
                let at = self.find(id)?;
                let count = self.domains[at].config["nics"].as_array().map_or(0, Vec::len);
                let mut nic = xl_config::nic(words, count as u64)?;
                // What is attached has Xen's own face alone.
                nic["nictype"] = json!("vif");
                self.attach(id, "nics", "mac", nic)
            }
            ["block-detach", id, vdev] => {
                self.detach(id, "disks", "vdev", vdev, &format!("Error: Device {vdev} not connected."))
            }
            ["network-detach", id, mac] => {
                self.detach(id, "nics", "mac", mac, &format!("Unknown device {mac}."))
            }
            ["save", id, path] => {
                let at = self.find(id)?;
                let domain = self.domains.remove(at);
                fs::write(path, serde_json::to_vec(&domain).unwrap())
                    .map_err(|error| format!("Failed to open temp file {path} for writing: {error}"))?;
                Ok(format!("Saving to {path} new xl format (info 0x3/0x0/1369)\n"))
            }
            ["restore", path] => {
                let saved: Domain = serde_json::from_slice(
                    &fs::read(path).map_err(|error| format!("Can't read {path}: {error}"))?,
                )
                .map_err(|_| "File has wrong magic number - corrupt or for a different tool?")?;
                self.boot(saved.config)
            }
            ["migrate", id, host] => {
                let at = self.find(id)?;
                if *host != "node2" {
                    return Err(format!(
                        "ssh: Could not resolve hostname {host}: Name or service not known\nmigration target: Target closed connection"
                    ));
                }
                self.domains.remove(at);
                Ok("migration sender: Target reports successful startup.\n".into())
            }
            _ => Err(format!("xl: the stand-in does not know {arguments:?}")),
        }
    }

    /// Where a domain is; names would do too, but a backend must not use them: a number is one.
    fn find(&self, id: &str) -> Result<usize, String> {
        let number: u32 = id.parse().map_err(|_| format!("the stand-in takes numbers, not {id:?}"))?;
        let at = self.domains.iter().position(|domain| domain.domid == number);
        at.ok_or_else(|| format!("{id} is an invalid domain identifier (rc=-6)"))
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut Domain)) -> Done {
        let at = self.find(id)?;
        change(&mut self.domains[at]);
        Ok(String::new())
    }

    fn build(&mut self, id: &str) -> Result<&mut Value, String> {
        let at = self.find(id)?;
        Ok(&mut self.domains[at].config["b_info"])
    }

    fn table(&self) -> String {
        let mut table =
            "Name                                        ID   Mem VCPUs\tState\tTime(s)\n".to_owned();
        table.push_str(&format!(
            "{:<40} {:>5} {OWN_MEMORY:>5} {CPUS:>5}     r-----  {:>8.1}\n",
            "Domain-0", 0, 11794.3
        ));
        table.extend(self.domains.iter().map(Domain::row));
        table
    }

    fn free(&self) -> u64 {
        MEMORY - OWN_MEMORY - self.domains.iter().map(Domain::memory).sum::<u64>()
    }

    fn info(&self) -> String {
        let lines = [
            ("host", "node1".to_owned()),
            ("release", "6.1.0-18-amd64".into()),
            ("version", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)".into()),
            ("machine", "x86_64".into()),
            ("nr_cpus", CPUS.to_string()),
            ("virt_caps", "pv hvm hap shadow".into()),
            ("total_memory", MEMORY.to_string()),
            ("free_memory", self.free().to_string()),
            ("xen_version", "4.17.3".into()),
        ];
        lines.map(|(key, value)| format!("{key:<23}: {value}\n")).concat()
    }

    fn create(&mut self, path: &str) -> Done {
        let config = fs::read_to_string(path).map_err(|_| format!("Failed to read config file: {path}"))?;
        let config = xl_config::to_json(&config)?;
        let missing = config["disks"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|disk| disk["pdev_path"].as_str().is_some_and(|path| !fs::exists(path).unwrap()));
        if let Some(disk) = missing {
            return Err(format!(
                "libxl: error: libxl_device.c: disk_try_backend: Disk vdev={} failed to stat: {}: No such file or directory",
                disk["vdev"], disk["pdev_path"]
            ));
        }
        self.boot(config)
    }

    fn boot(&mut self, config: Value) -> Done {
        let name = config["c_info"]["name"].clone();
        if self.domains.iter().any(|domain| domain.config["c_info"]["name"] == name) {
            return Err(format!(
                "libxl: error: libxl_create.c: initiate_domain_create: domain with name {name} already exists"
            ));
        }
        self.last += 1;
        let domain = Domain { domid: self.last, config, paused: false, ended: None, started: now() };
        if domain.memory() > self.free() {
            return Err("failed to free memory for the domain".into());
        }
        self.domains.push(domain);
        Ok(String::new())
    }

    /// The guest ends, and what the configuration says follows.
    fn end(&mut self, id: &str, action: &str, flag: Option<char>) -> Done {
        let at = self.find(id)?;
        match self.domains[at].config[action].as_str() {
            Some("preserve") => self.domains[at].ended = flag,
            Some("restart") => {
                let domain = self.domains.remove(at);
                self.boot(domain.config)?;
            }
            _ => drop(self.domains.remove(at)),
        }
        Ok(String::new())
    }

    fn pin(&mut self, id: &str, vcpu: &str, cpus: &str) -> Done {
        let build = self.build(id)?;
        let vcpu: usize = vcpu.parse().map_err(|_| format!("Error: Invalid argument {vcpu} as VCPU."))?;
        let most = build["max_vcpus"].as_u64().unwrap() as usize;
        if vcpu >= most {
            return Err(format!(
                "libxl: error: libxl_sched.c: libxl_set_vcpuaffinity: Domain {id}:Setting vcpu affinity: Invalid argument"
            ));
        }
        let set = if cpus == "all" { Ok(lb_affinity::CpuSet::first_n(CPUS)) } else { cpus.parse() };
        let set: lb_affinity::CpuSet =
            set.map_err(|_| format!("Error: Invalid argument {cpus} as hard affinity."))?;
        if !build["vcpu_hard_affinity"].is_array() {
            build["vcpu_hard_affinity"] = json!([]);
        }
        let pins = build["vcpu_hard_affinity"].as_array_mut().unwrap();
        let all: Vec<u32> = (0..CPUS).collect();
        pins.resize(most, json!(all));
        pins[vcpu] = json!(set.iter().collect::<Vec<u32>>());
        Ok(String::new())
    }

    fn attach(&mut self, id: &str, place: &str, key: &str, part: Value) -> Done {
        let at = self.find(id)?;
        let config = self.domains[at].config.as_object_mut().unwrap();
        let parts = config.entry(place).or_insert_with(|| json!([])).as_array_mut().unwrap();
        if parts.iter().any(|other| other[key] == part[key]) {
            return Err(format!(
                "libxl: error: libxl_device.c: libxl__device_exists: device already exists in xenstore: {}",
                part[key]
            ));
        }
        parts.push(part);
        Ok(String::new())
    }

    fn detach(&mut self, id: &str, place: &str, key: &str, name: &str, missing: &str) -> Done {
        let at = self.find(id)?;
        let parts = self.domains[at].config[place].as_array_mut();
        let before = parts.as_ref().map_or(0, |parts| parts.len());
        let left = parts.map_or(0, |parts| {
            parts.retain(|part| part[key] != name);
            parts.len()
        });
        if left == before { Err(missing.into()) } else { Ok(String::new()) }
    }
}
