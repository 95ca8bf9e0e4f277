//! `affinity plan`: one layout, or all of them in order.

use std::io::{self, Write};
use std::process::ExitCode;

use lb_affinity::fs::FileSystem;
use lb_affinity::interrupts::{Interrupts, InterruptsError};
use lb_affinity::nic::{Nic, NicError};
use lb_affinity::plan::cost::{Costs, Prediction, predict};
use lb_affinity::plan::vcpu::{VcpuError, VcpuPlanner};
use lb_affinity::plan::{FlowShare, Plan, PlanError, Planner, Receive, SOCK_FLOW_ENTRIES, Strategy};
use lb_affinity::socket::Steering;
use lb_affinity::{CpuSet, Setting, Topology};
use serde_json::{Value, json};

use crate::Fatal;
use crate::picture::{Marks, draw};
use crate::source::Source;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    pub(crate) wish: Wish,
    /// The CPU of the only interrupt, for a machine whose interface can't be read
    #[arg(long, value_name = "CPU", conflicts_with = "nic")]
    irq_cpu: Option<u32>,
    /// Compare all strategies, the best first
    #[arg(long, conflicts_with = "machines")]
    rank: bool,
    /// Place virtual machines instead of workers: how many vCPUs each has, `8,8`, or how many machines share the CPUs, `4x`
    #[arg(long, value_name = "LIST", conflicts_with_all = ["workers", "strategy", "nic", "irq_cpu", "flows_by_workers"])]
    machines: Option<String>,
    /// Let vCPUs of several machines share a CPU, when they do not fit otherwise
    #[arg(long, requires = "machines")]
    over_commit: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What a plan is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Wish {
    /// How many workers there are; as many as fit if it is not given
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// The network interface whose queues serve them
    #[arg(long, value_name = "NAME")]
    pub(crate) nic: Option<String>,
    /// How the CPUs are divided
    #[arg(long, value_name = "NAME", default_value_t = Strategy::Balanced, long_help = strategies())]
    strategy: Strategy,
    /// Let workers, or virtual machines, use isolated CPUs
    #[arg(long)]
    isolated: bool,
    /// Divide the table of flows by the workers, not by the queues (RFS)
    #[arg(long)]
    flows_by_workers: bool,
}

/// A plan that can't be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanningError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Nic(#[from] NicError),
    #[error(transparent)]
    Interrupts(#[from] InterruptsError),
    #[error("{0}; the recording does not tell of interfaces, so say --irq-cpu instead of --nic")]
    NotRecorded(InterruptsError),
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    #[error("--nic {0:?} needs the machine's files, which `lscpu` does not have; say --irq-cpu instead")]
    NoFiles(String),
    #[error(
        "--machines {0:?} is neither a list of numbers of vCPUs (`8,8`) nor a number of equal shares (`4x`)"
    )]
    Machines(String),
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Fatal> {
    let (topology, files) = arguments.source.open()?;
    let mut out = io::stdout().lock();
    if let Some(machines) = &arguments.machines {
        let planner = VcpuPlanner::new(&topology)
            .use_isolated(arguments.wish.isolated)
            .over_commit(arguments.over_commit);
        write!(out, "{}", virtual_machines(&planner, machines, arguments.json)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let has_files = arguments.source.lscpu.is_none();
    let wish = &arguments.wish;
    let mut planner = wish.planner(&topology, &*files, has_files, arguments.source.is_live())?;
    if let Some(cpu) = arguments.irq_cpu {
        planner = planner.receive(Receive::interrupt_on(cpu));
    }
    if arguments.rank {
        let ranked = wish.rank(&topology, &planner).map_err(PlanningError::from)?;
        if arguments.json {
            let rows = ranked.iter().map(|(name, plan, prediction)| ranked_json(name, plan, prediction));
            writeln!(out, "{:#}", Value::from_iter(rows))?;
        } else {
            write!(out, "{}", table(&ranked))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let plan = wish.staffed(&planner).plan().map_err(PlanningError::from)?;
    if arguments.json {
        writeln!(out, "{:#}", plan_json(&topology, &plan))?;
    } else {
        write!(out, "{}", describe(&topology, &plan))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Wish {
    /// The planner for this wish on a machine, without the number of workers.
    pub(crate) fn planner<'t>(
        &self,
        topology: &'t Topology,
        files: &dyn FileSystem,
        has_files: bool,
        live: bool,
    ) -> Result<Planner<'t>, PlanningError> {
        let receive = match &self.nic {
            Some(name) if !has_files => return Err(PlanningError::NoFiles(name.clone())),
            Some(name) => receive(files, name, live)?,
            None => Receive::default(),
        };
        let share = if self.flows_by_workers { FlowShare::Workers } else { FlowShare::Queues };
        Ok(Planner::new(topology)
            .receive(receive)
            .strategy(self.strategy)
            .use_isolated(self.isolated)
            .flows(SOCK_FLOW_ENTRIES, share))
    }

    /// The planner with as many workers as were asked for.
    pub(crate) fn staffed<'t>(&self, planner: &Planner<'t>) -> Planner<'t> {
        match self.workers {
            Some(workers) => planner.clone().workers(workers),
            None => planner.clone(),
        }
    }

    /// Every strategy's layout with a name, the best first; beside those for the workers that were asked for, what fits into the
    /// node of the network side, and one worker, pinned and not, as measures.
    fn rank(
        &self,
        topology: &Topology,
        planner: &Planner<'_>,
    ) -> Result<Vec<(String, Plan, Prediction)>, PlanError> {
        let costs = Costs::default();
        let asked = self.staffed(planner).ranked(&costs)?;
        let mut ranked: Vec<_> = asked
            .into_iter()
            .map(|(plan, prediction)| (plan.strategy.to_string(), plan, prediction))
            .collect();
        let near = planner.clone().strategy(Strategy::SameNode);
        // Without a number: as many as fit there.
        let (one, all) = (near.clone().workers(1).plan()?, near.plan()?);
        let placed = planner.clone().strategy(Strategy::None).workers(1).plan()?;
        let mut measures = vec![
            ("same-node, 1 worker".to_owned(), one),
            ("none, 1 worker placed by the system".to_owned(), placed),
        ];
        if all.workers.len() > 1 {
            measures.push((format!("same-node, {} workers", all.workers.len()), all));
        }
        for (name, plan) in measures {
            // A plan is on CPUs that are online, and so has a prediction.
            if let Ok(prediction) = predict(topology, &costs, &plan.layout()) {
                ranked.push((name, plan, prediction));
            }
        }
        ranked.sort_by(|(_, _, one), (_, _, other)| one.best_first(other));
        Ok(ranked)
    }
}

/// What a plan has to know of an interface.
fn receive(files: &dyn FileSystem, name: &str, live: bool) -> Result<Receive, PlanningError> {
    let recorded =
        |error| if live { PlanningError::Interrupts(error) } else { PlanningError::NotRecorded(error) };
    let interrupts = Interrupts::read(files).map_err(recorded)?;
    let nic = Nic::read(files, name, &interrupts)?;
    // A driver that can't be asked has no say.
    Ok(Receive { channels: files.channels(name).ok(), ..Receive::from(&nic) })
}

/// A worker's CPU; the lowest of them, if it has several.
fn workers(plan: &Plan) -> Vec<u32> {
    plan.workers.iter().filter_map(|worker| worker.cpus.first()).collect()
}

fn plan_json(topology: &Topology, plan: &Plan) -> Value {
    let settings: Vec<Value> = plan
        .settings()
        .iter()
        .map(|setting| json!({ "path": setting.target().path(), "value": setting.content(plan.nr_cpu_ids) }))
        .collect();
    let queues = plan.queue_setting().map(|setting| {
        json!({ "target": setting.target().to_string(), "value": setting.content(plan.nr_cpu_ids) })
    });
    json!({
        "strategy": plan.strategy.name(),
        "workers": workers(plan),
        "network": plan.network.iter().collect::<Vec<_>>(),
        "rps_mask": plan.rps_mask(0),
        "queues": queues,
        "settings": settings,
        "steering": plan.steering(topology).map(|steering| steering_json(&steering)),
        "reasons": plan.reasons.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "plan": plan,
    })
}

/// For each CPU the workers whose listeners get its connections, with their shares.
fn steering_json(steering: &Steering) -> Value {
    let shares =
        |cpu| steering.sockets(cpu).into_iter().map(|(worker, share)| (worker.to_string(), json!(share)));
    let cpus = steering.cpus().map(|cpu| (cpu.to_string(), Value::from_iter(shares(cpu))));
    Value::from_iter(cpus)
}

fn ranked_json(name: &str, plan: &Plan, prediction: &Prediction) -> Value {
    json!({
        "name": name,
        "strategy": plan.strategy.name(),
        "workers": workers(plan),
        "pinned": plan.workers.iter().all(|worker| worker.cpus.len() == 1),
        "network": plan.network.iter().collect::<Vec<_>>(),
        "rps_mask": plan.rps_mask(0),
        "rfs": plan.sock_flow_entries.is_some_and(|entries| entries > 0),
        "throughput": prediction.throughput,
        "bottleneck": prediction.bottleneck,
    })
}

fn table(ranked: &[(String, Plan, Prediction)]) -> String {
    let shown = |cpus: CpuSet| if cpus.is_empty() { "-".to_owned() } else { cpus.to_string() };
    let mut text =
        format!("{:<38} {:>10}  {:<20} {:<16} busiest\n", "layout", "throughput", "workers on", "network on");
    for (name, plan, prediction) in ranked {
        let on: CpuSet = plan.workers.iter().flat_map(|worker| worker.cpus.iter()).collect();
        text += &format!(
            "{name:<38} {:>10.2}  {:<20} {:<16} CPU {}\n",
            prediction.throughput,
            shown(on),
            shown(plan.network.clone()),
            prediction.bottleneck
        );
    }
    text + "Throughput is predicted, and relative: 1 is one pinned worker that nothing holds up.\n"
}

/// The layout drawn, the reasons, and what would be written.
fn describe(topology: &Topology, plan: &Plan) -> String {
    let mut text = explain(topology, plan);
    if let Some(setting) = plan.queue_setting() {
        text += &format!(
            "\nFirst, with `affinity apply --queues`, after which the link restarts and the rest is planned again:\n  {} ← {}\n",
            setting.target(),
            setting.content(plan.nr_cpu_ids)
        );
    }
    let settings = plan.settings();
    if !settings.is_empty() {
        text += "\nTo be written:\n";
    }
    for setting in settings {
        let meaning = match &setting {
            // A mask is not easily read.
            Setting::Rps { cpus, .. } | Setting::Xps { cpus, .. } => match cpus.len() {
                0 => "  (no CPU)".to_owned(),
                1 => format!("  (CPU {cpus})"),
                _ => format!("  (CPUs {cpus})"),
            },
            _ => String::new(),
        };
        text += &format!("  {} ← {}{meaning}\n", setting.target(), setting.content(plan.nr_cpu_ids));
    }
    text
}

/// The layout drawn, the reasons, and what is for the listeners themselves to do.
pub(crate) fn explain(topology: &Topology, plan: &Plan) -> String {
    let mut text = draw(topology, &marks(plan));
    text += "W worker, N network work, I interrupt\n\n";
    for reason in &plan.reasons {
        text += &format!("{reason}\n");
    }
    if let Some(steering) = plan.steering(topology) {
        text += &format!("\nListeners with SO_REUSEPORT, CPU → worker: {steering}\n");
    }
    text
}

/// The strategies, for `--help`.
fn strategies() -> String {
    let policies = Strategy::ALL.into_iter().filter(|one| one.is_cpu_policy()).map(Strategy::name);
    format!(
        "How the CPUs are divided between workers and network work\n\n\
         balanced: in each node as many CPUs for network work as for workers, on few nodes, and no worker on an interrupt's CPU\n\
         same-node: workers beside the interrupt, whose CPU does all network work\n\
         network-on-one-node: the interrupt's node does network work, workers are on the others\n\
         one-cpu: one CPU beside the interrupt's does all protocol work\n\
         rss: each of the card's queues has a CPU of its own, and RPS is off\n\
         rfs: each packet goes to the CPU of the worker that reads it\n\n\
         Or one of HAProxy's cpu-policy names, which say where workers may run and leave the network side as it is:\n{}",
        policies.collect::<Vec<_>>().join(", ")
    )
}

fn marks(plan: &Plan) -> Marks {
    let mut marks = Marks::new();
    let mut mark = |cpu: u32, text: &str| {
        let marks = marks.entry(cpu).or_default();
        if !marks.is_empty() {
            marks.push(' ');
        }
        marks.push_str(text);
    };
    for (number, worker) in plan.workers.iter().enumerate() {
        // A worker on all CPUs is on none in particular.
        if worker.cpus.len() == 1 {
            worker.cpus.iter().for_each(|cpu| mark(cpu, &format!("W{number}")));
        }
    }
    let interrupts: CpuSet = plan.queues.iter().filter_map(|queue| queue.cpu).collect();
    (&plan.network - &interrupts).iter().for_each(|cpu| mark(cpu, "N"));
    interrupts.iter().for_each(|cpu| mark(cpu, "I"));
    marks
}

/// Where each vCPU goes, and the text for libvirt.
fn virtual_machines(
    planner: &VcpuPlanner<'_>,
    machines: &str,
    as_json: bool,
) -> Result<String, PlanningError> {
    let wrong = || PlanningError::Machines(machines.to_owned());
    let plan = match machines.strip_suffix('x') {
        Some(count) => planner.equal_shares(count.trim().parse().map_err(|_| wrong())?)?,
        None => {
            let vcpus: Result<Vec<u32>, _> =
                machines.split(',').map(|number| number.trim().parse()).collect();
            planner.machines(&vcpus.map_err(|_| wrong())?)?
        }
    };
    if as_json {
        return Ok(format!("{:#}\n", json!(plan)));
    }
    let texts = plan.machines.iter().enumerate().map(|(number, machine)| {
        format!("<!-- machine {number}: {} -->\n{}\n", machine.why, machine.cputune().trim_end())
    });
    Ok(texts.collect())
}
