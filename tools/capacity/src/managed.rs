//! The same turns on Lambda Managed Instances: many of them in a process, and instances that are paid for by the hour.
//! Which of the two ways is cheaper, and from how many turns a month on.

use cost::count;
use serde_json::{Value, json};

use crate::options::Options;
use crate::plan::{DAY_SECONDS, DAYS_A_MONTH, LambdaPlan, on_demand_dollars_a_turn};
use crate::report::{columns, dollars, heading, line, note};

/// The load for which instances run, divided by the load. Lambda starts more within minutes, and load that more than
/// doubles within five is refused.
const SPARE: f64 = 2.0;

/// The share of a CPU that turns may take. Above it deltas would wait for each other.
const CPU_SHARE: f64 = 0.5;

/// The memories of chat-stream on demand with which the instances are compared, in MB, besides the assumed one.
const MEMORIES_MB: [u64; 2] = [128, 256];

/// The load and the cost of `chat-stream` on managed instances.
#[derive(Debug)]
pub(crate) struct ManagedPlan {
    /// The number of concurrent turns that one instance can serve.
    turns_an_instance: f64,
    /// The number of instances on average over a month. They come and go with the load, hence a fraction.
    instances: f64,
    /// The number of instances in the busiest hour of the busiest day.
    busy_instances: f64,
    /// What one instance costs a month, with Lambda's fee.
    dollars_an_instance: f64,
    /// What all instances cost a month.
    instance_dollars: f64,
    /// What a further turn costs once the smallest number of instances is full.
    dollars_a_turn: f64,
    /// What the smallest number of instances costs a month, used or not.
    least_dollars: f64,
}

impl ManagedPlan {
    pub(crate) fn new(options: &Options, on_demand: &LambdaPlan) -> Self {
        let cpu_allows = CPU_SHARE * options.reply_seconds * 1_000.0 / options.cpu_ms;
        let turns_an_instance =
            options.instance_vcpus as f64 * cpu_allows.min(options.streams_per_vcpu as f64);
        let least = options.min_instances as f64;
        let for_load = |turns_at_once: f64| (turns_at_once * SPARE / turns_an_instance).max(least);
        let month_seconds = DAYS_A_MONTH * DAY_SECONDS;
        let turns_at_once = on_demand.turns_a_month / month_seconds * options.reply_seconds;
        let dollars_an_instance = options.instance_dollars_per_hour
            * (1.0 + options.managed_fee_percent / 100.0)
            * month_seconds
            / 3_600.0;
        let instances = for_load(turns_at_once);
        let turns_a_month_an_instance =
            turns_an_instance / SPARE * month_seconds / options.reply_seconds;
        Self {
            turns_an_instance,
            instances,
            busy_instances: for_load(on_demand.busy_concurrency).ceil(),
            dollars_an_instance,
            instance_dollars: instances * dollars_an_instance,
            dollars_a_turn: dollars_an_instance / turns_a_month_an_instance,
            least_dollars: least * dollars_an_instance,
        }
    }

    /// Returns the turns a month from which on the instances cost less than a function of this memory, or `None` if
    /// they never do. Requests cost the same either way.
    fn cheaper_from(&self, options: &Options, lambda_mb: u64) -> Option<f64> {
        let on_demand = on_demand_dollars_a_turn(options, lambda_mb);
        // Where a turn costs more on demand, the bills meet before the smallest number of instances is full.
        (on_demand > self.dollars_a_turn).then(|| self.least_dollars / on_demand)
    }
}

/// Returns the memories with which the instances are compared, in MB, each once.
fn memories(options: &Options) -> Vec<u64> {
    let mut memories = MEMORIES_MB.to_vec();
    memories.push(options.lambda_mb);
    memories.sort_unstable();
    memories.dedup();
    memories
}

/// Returns all figures, in dollars and turns a month.
pub(crate) fn json(options: &Options, on_demand: &LambdaPlan, plan: &ManagedPlan) -> Value {
    let compared: Vec<Value> = memories(options)
        .into_iter()
        .map(|lambda_mb| {
            json!({
                "lambda_mb": lambda_mb,
                "duration_dollars_a_month": on_demand.turns_a_month * on_demand_dollars_a_turn(options, lambda_mb),
                "cheaper_from_turns_a_month": plan.cheaper_from(options, lambda_mb),
            })
        })
        .collect();
    json!({
        "turns_an_instance": plan.turns_an_instance, "instances": plan.instances,
        "busy_instances": plan.busy_instances, "instance_dollars_a_month": plan.instance_dollars,
        "request_dollars_a_month": on_demand.request_dollars, "compared": compared,
    })
}

/// Prints both ways side by side.
pub(crate) fn print(options: &Options, on_demand: &LambdaPlan, plan: &ManagedPlan) {
    heading("Or many turns in one process, on Lambda Managed Instances (template-managed.yaml)");
    line(
        "STREAMS_PER_VCPU",
        &options.streams_per_vcpu.to_string(),
        "turns at once for each virtual CPU: ChatStreamsPerEnvironment with 2,048 MB",
    );
    line(
        "INSTANCE_VCPUS",
        &options.instance_vcpus.to_string(),
        "of an instance; the default is a c8g.xlarge",
    );
    line(
        "MIN_INSTANCES",
        &options.min_instances.to_string(),
        "that always run, one for each zone",
    );
    line(
        "instances",
        &format!("{:.1}", plan.instances),
        &format!(
            "on average, {} in the busiest hour: each serves {} turns at once, and there is room for {SPARE} × the load",
            count(plan.busy_instances),
            count(plan.turns_an_instance)
        ),
    );
    line(
        "an instance",
        &dollars(plan.dollars_an_instance),
        &format!(
            "a month: 720 h at INSTANCE_DOLLARS_PER_HOUR ${}, and MANAGED_FEE_PERCENT {}%",
            options.instance_dollars_per_hour, options.managed_fee_percent
        ),
    );
    side_by_side(options, on_demand, plan);
    note(&format!(
        "Prices as of PRICES_DATE={}: list prices of us-east-1 without a savings plan. Not included: NAT gateways.",
        options.prices_date
    ));
}

fn side_by_side(options: &Options, on_demand: &LambdaPlan, plan: &ManagedPlan) {
    let memories = memories(options);
    let row = |name: &str, of_memory: &dyn Fn(u64) -> String, of_instances: String| {
        let mut cells: Vec<String> = memories.iter().map(|mb| of_memory(*mb)).collect();
        cells.push(of_instances);
        columns(name, &cells);
    };
    let duration = |mb: u64| on_demand.turns_a_month * on_demand_dollars_a_turn(options, mb);
    let requests = on_demand.request_dollars;
    heading(&format!(
        "Side by side: a month of 30 days with {} turns",
        count(on_demand.turns_a_month)
    ));
    row("", &|mb| format!("{mb} MB"), "instances".to_owned());
    row(
        "compute",
        &|mb| dollars(duration(mb)),
        dollars(plan.instance_dollars),
    );
    row("requests", &|_| dollars(requests), dollars(requests));
    row(
        "= in all",
        &|mb| dollars(duration(mb) + requests),
        dollars(plan.instance_dollars + requests),
    );
    row(
        "instances win from",
        &|mb| {
            let from = plan.cheaper_from(options, mb);
            from.map_or_else(|| "never".to_owned(), count)
        },
        "turns a month".to_owned(),
    );
}
