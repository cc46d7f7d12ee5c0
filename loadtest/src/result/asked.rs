//! What a run was asked to do: two results whose entries differ were not asked the same.

use std::collections::BTreeMap;

use crate::plan::{LoadModel, Plan};
use crate::unit::{Unit, grouped};

/// The entries, named like the options.
pub fn asked(plan: &Plan) -> BTreeMap<String, String> {
    let time = |ns: u64| in_seconds(crate::unit::seconds(ns / 1000));
    let rates: Vec<_> = plan.stages.iter().map(|stage| ramp(stage.rate)).collect();
    let load = match plan.load_model {
        LoadModel::ClosedLoop(in_flight) => ("in-flight", in_flight.to_string()),
        LoadModel::OpenLoop => ("rate", rates.join(", ")),
    };
    let lengths: Vec<_> = plan.stages.iter().map(|stage| in_seconds(stage.seconds)).collect();
    let clients: Vec<_> = plan.stages.iter().map(|stage| ramp_of_clients(stage.clients)).collect();
    let clients = if plan.connect_first { grouped(plan.clients.into()) } else { clients.join(", ") };
    let some = |is: bool, value: String| is.then_some(value);
    let storm = |storm: &crate::plan::Storm| in_seconds(storm.reconnect_at - storm.at);
    let publishers = plan.target.publishers_protocol.as_ref();
    let entries = [
        ("scenario", Some(plan.scenario.name().to_owned())),
        ("transport", Some(plan.target.protocol.transport.name().to_owned())),
        ("publishers-transport", publishers.map(|protocol| protocol.transport.name().to_owned())),
        ("clients", Some(clients)),
        ("rooms", Some(grouped(plan.rooms.into()))),
        ("publishers", some(plan.publishers > 0, grouped(plan.publishers.into()))),
        (load.0, some(plan.publishers > 0, load.1)),
        ("size", some(plan.publishers > 0, plan.sizes.to_string())),
        ("duration", Some(lengths.join(", "))),
        ("warmup", some(plan.warmup_ns > 0, time(plan.warmup_ns))),
        ("churn", some(plan.churn > 0.0, Unit::PerSecond.format(plan.churn))),
        ("storms", some(!plan.storms.is_empty(), plan.storms.len().to_string())),
        ("downtime", plan.storms.first().map(storm)),
        ("connect-rate", plan.connect_rate.map(|rate| Unit::PerSecond.format(rate))),
        ("handshakes", Some(plan.handshakes.to_string())),
        ("never-read", some(plan.never_read > 0, plan.never_read.to_string())),
        ("slow-read", some(plan.slow_read > 0, plan.slow_read.to_string())),
        ("resume", some(plan.resume, "yes".to_owned())),
        ("close", some(plan.close, "yes".to_owned())),
        ("deflate", some(plan.target.deflate, "yes".to_owned())),
        ("tls", some(plan.target.tls, "yes".to_owned())),
        ("tokens", some(plan.tokens.is_some(), "yes".to_owned())),
        ("subprotocol", plan.target.protocol.subprotocol.clone()),
        ("publish", Some(plan.target.protocol.publish.clone().into())),
    ];
    entries.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn in_seconds(seconds: f64) -> String {
    format!("{seconds} s")
}

#[expect(clippy::float_cmp, reason = "a constant rate has the same number twice")]
fn ramp((from, to): (f64, f64)) -> String {
    if from == to { format!("{to}/s") } else { format!("{from}/s to {to}/s") }
}

fn ramp_of_clients((from, to): (u32, u32)) -> String {
    if from == to {
        grouped(to.into())
    } else {
        format!("{} to {}", grouped(from.into()), grouped(to.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::plan::Scenario;

    #[test]
    fn the_entries_describe_the_run() {
        let text = "clients = 200\nrate = 50\nduration = \"5s\"\nwarmup = \"1s\"\n";
        let plan = toml::from_str::<Options>(text).unwrap().plan(Scenario::Chat).unwrap();
        let asked = asked(&plan);
        let value = |name: &str| asked.get(name).map(String::as_str);
        assert_eq!(
            [value("clients"), value("rate"), value("duration")],
            [Some("200"), Some("50/s"), Some("5 s")]
        );
        assert_eq!([value("warmup"), value("in-flight"), value("resume")], [Some("1 s"), None, None]);
        let text = "[[stage]]\nduration = \"2s\"\nclients = 30\nrate = 10\n";
        let plan = toml::from_str::<Options>(text).unwrap().plan(Scenario::Chat).unwrap();
        assert_eq!(super::asked(&plan)["clients"], "0 to 30");
        assert_eq!(super::asked(&plan)["rate"], "0/s to 10/s");
    }
}
