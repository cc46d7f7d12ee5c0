//! The command line.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, ValueHint, value_parser};
use clap_complete::Shell;
use std::ffi::OsString;
use std::path::PathBuf;

use super::settings::{self, Kind, Setting};
use super::token::{self, TokenCommand};
use super::{Entry, Location, Raw};

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Run the server.
    Serve,
    /// Print the mistakes in the configuration.
    Check,
    /// Print all settings.
    Config(ConfigPage),
    /// Print all metric families, as a Markdown table.
    Metrics,
    /// Make or check a token.
    Token(TokenCommand),
    /// Print a shell's completions.
    Completions(Shell),
}

/// How settings are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigPage {
    /// The defaults, as a commented file.
    Defaults,
    /// The defaults, as a Markdown table.
    Markdown,
    /// The values that hold, each with where it is from.
    Effective,
}

/// A command line that was understood.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// What is to be done.
    pub command: Command,
    /// The file that was named.
    pub config_file: Option<PathBuf>,
    /// Settings that were given as flags.
    pub flags: Vec<Entry>,
}

/// Reads the command line. For help or the version, or on an error, it returns what is to be printed.
///
/// # Errors
/// clap's, which also carry help and version.
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let matches = grammar().try_get_matches_from(arguments)?;
    let (command, matches) = match matches.subcommand() {
        Some(("check", matches)) => (Command::Check, matches),
        Some(("config", matches)) => (Command::Config(config_page(matches)), matches),
        Some(("metrics", matches)) => (Command::Metrics, matches),
        Some(("completions", chosen)) => {
            let shell = chosen.get_one("shell").copied().unwrap_or(Shell::Bash);
            return Ok(Invocation {
                command: Command::Completions(shell),
                config_file: None,
                flags: Vec::new(),
            });
        }
        Some(("token", matches)) => match token::read(matches) {
            Some((command, matches)) => (Command::Token(command), matches),
            None => (Command::Serve, matches), // clap insists on one of the two
        },
        Some((_, matches)) => (Command::Serve, matches),
        None => (Command::Serve, &matches),
    };
    let config_file = matches.try_get_one::<PathBuf>("config").ok().flatten().cloned();
    let flags = with_flags().filter_map(|setting| flag_value(setting, matches)).collect();
    Ok(Invocation { command, config_file, flags })
}

fn config_page(matches: &ArgMatches) -> ConfigPage {
    match (matches.get_flag(EFFECTIVE), matches.get_flag(MARKDOWN)) {
        (true, _) => ConfigPage::Effective,
        (false, true) => ConfigPage::Markdown,
        (false, false) => ConfigPage::Defaults,
    }
}

/// Prints the completions for `shell`.
pub fn completions(shell: Shell, out: &mut dyn std::io::Write) {
    clap_complete::generate(shell, &mut grammar(), "stentor", &mut CompletionWriter(out));
}

struct CompletionWriter<'a>(&'a mut dyn std::io::Write);

impl std::io::Write for CompletionWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

const MARKDOWN: &str = "markdown";
const EFFECTIVE: &str = "effective";

fn markdown(help: &'static str) -> Arg {
    Arg::new(MARKDOWN).long(MARKDOWN).action(ArgAction::SetTrue).help(help)
}

fn grammar() -> clap::Command {
    let settings = || {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help("TOML file with settings [env: STENTOR_CONFIG]")
            .value_hint(ValueHint::FilePath)
            .value_parser(value_parser!(PathBuf));
        std::iter::once(config).chain(with_flags().map(flag))
    };
    let shell = Arg::new("shell").required(true).value_parser(value_parser!(Shell));
    clap::Command::new("stentor")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A broadcast server for chat. Without a command, runs the server.")
        .args_conflicts_with_subcommands(true)
        .args(settings())
        .subcommand(clap::Command::new("serve").about("Run the server (the default)").args(settings()))
        .subcommand(
            clap::Command::new("check")
                .about("Check the configuration and print its errors")
                .args(settings()),
        )
        .subcommand(
            clap::Command::new("config")
                .about("Print all settings and their defaults, as a TOML file")
                .arg(markdown("Print a Markdown table instead"))
                .arg(
                    Arg::new(EFFECTIVE)
                        .long(EFFECTIVE)
                        .action(ArgAction::SetTrue)
                        .conflicts_with(MARKDOWN)
                        .help("Print the values that hold instead, each with where it is written; secrets are masked"),
                )
                .args(settings().map(|arg| if arg.get_id() == "config" { arg } else { arg.hide(true) })),
        )
        .subcommand(
            clap::Command::new("metrics")
                .about("Print all metrics, as a Markdown table")
                .arg(markdown("The default").hide(true)),
        )
        .subcommand(token::grammar(|| settings().collect()))
        .subcommand(clap::Command::new("completions").about("Print completions for a shell").arg(shell))
}

/// What may be printed where others can read it.
fn with_flags() -> impl Iterator<Item = &'static Setting> {
    settings::ALL.iter().filter(|setting| !setting.secret)
}

fn flag(setting: &'static Setting) -> Arg {
    let help = format!("{} [default: {}]", setting.doc, default_as_flag(setting));
    let arg = Arg::new(setting.name).long(setting.name.replace('_', "-")).help(help);
    match setting.kind {
        Kind::Switch => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("true|false")
            .value_parser(PossibleValuesParser::new(["true", "false"])),
        Kind::Choice(words) => arg.value_name("VALUE").value_parser(PossibleValuesParser::new(words)),
        Kind::List => arg.action(ArgAction::Append).value_delimiter(',').value_name("LIST"),
        Kind::Size => arg.value_name("SIZE"),
        Kind::Span => arg.value_name("TIME"),
        Kind::Count | Kind::CountOrAuto => arg.value_name("N"),
        Kind::Text => arg.value_name("TEXT"),
    }
}

/// The default, as it would be written behind the flag.
fn default_as_flag(setting: &Setting) -> String {
    let default = setting.default;
    let list =
        default.strip_prefix('[').and_then(|it| it.strip_suffix(']')).filter(|_| setting.kind == Kind::List);
    let shown = list.unwrap_or(default).replace('"', "").replace(", ", ",");
    if shown.is_empty() { "none".to_owned() } else { shown }
}

fn flag_value(setting: &Setting, matches: &ArgMatches) -> Option<Entry> {
    let mut values: Vec<String> = matches.try_get_many(setting.name).ok()??.cloned().collect();
    let value = if setting.kind == Kind::List { Raw::List(values) } else { Raw::Text(values.pop()?) };
    Some(Entry { name: setting.name.to_owned(), value, location: Location::flag(setting.name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(line: &str) -> Vec<(String, Raw)> {
        let invocation = parse(line.split(' ').map(OsString::from)).unwrap();
        assert_eq!(invocation.command, Command::Serve);
        invocation.flags.into_iter().map(|entry| (entry.name, entry.value)).collect()
    }

    #[test]
    fn the_grammar_is_sound() {
        grammar().debug_assert();
    }

    #[test]
    fn serve_is_the_default() {
        let expected = vec![
            ("listen".to_owned(), Raw::List(vec!["a:1".into(), "b:2".into()])),
            ("shards".to_owned(), Raw::Text("2".into())),
            ("echo".to_owned(), Raw::Text("true".into())),
        ];
        assert_eq!(flags("stentor --listen a:1,b:2 --shards 2 --echo"), expected);
        assert_eq!(flags("stentor serve --listen a:1 --listen b:2 --shards 2 --echo=true"), expected);
    }

    #[test]
    fn tables_for_the_documents() {
        let command = |line: &str| parse(line.split(' ').map(OsString::from)).unwrap().command;
        assert_eq!(command("stentor config"), Command::Config(ConfigPage::Defaults));
        assert_eq!(command("stentor config --markdown"), Command::Config(ConfigPage::Markdown));
        assert_eq!(command("stentor config --effective --shards 2"), Command::Config(ConfigPage::Effective));
        assert_eq!(command("stentor metrics --markdown"), Command::Metrics);
    }

    /// What help shows as a default is accepted as a value, and means the default.
    #[test]
    fn defaults_in_the_help_are_values() {
        let shown = |name: &str| default_as_flag(settings::find(name).unwrap());
        assert_eq!(shown("listen"), "[::]:8080");
        assert_eq!(shown("max_message"), "64KiB");
        assert_eq!((shown("hook_ca"), shown("token_public_keys")), ("none".to_owned(), "none".to_owned()));
        let help = grammar().render_long_help().to_string();
        for setting in with_flags() {
            let default = format!("[default: {}]", default_as_flag(setting));
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words(&help).contains(&format!("{} {default}", words(setting.doc))), "{}", setting.name);
            if default_as_flag(setting) != "none" {
                let flag = format!("--{}={}", setting.name.replace('_', "-"), default_as_flag(setting));
                assert!(parse(["stentor".into(), flag.into()].into_iter()).is_ok(), "{}", setting.name);
            }
        }
    }

    #[test]
    fn secrets_are_no_flags() {
        let secrets: Vec<_> = settings::ALL.iter().filter(|setting| setting.secret).collect();
        assert!(!secrets.is_empty());
        for setting in secrets {
            let flag = format!("--{}=1", setting.name.replace('_', "-"));
            assert!(parse(["stentor".into(), flag.into()].into_iter()).is_err());
        }
    }

    #[test]
    fn every_setting_is_a_flag() {
        for setting in with_flags() {
            let word = match setting.kind {
                Kind::Choice(words) => words[0],
                Kind::Switch => "true",
                Kind::Count | Kind::CountOrAuto | Kind::Size | Kind::Span | Kind::Text | Kind::List => "1",
            };
            let found = flags(&format!("stentor --{}={word}", setting.name.replace('_', "-")));
            assert_eq!(found.len(), 1, "{}", setting.name);
        }
    }
}
