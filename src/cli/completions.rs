//! `completions`: what a shell needs to complete this program's commands.

use super::{Failure, print};
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

#[derive(Args)]
pub struct Arguments {
    shell: Shell,
}

pub fn run<C: CommandFactory>(arguments: &Arguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    let mut program = C::command();
    let name = program.get_name().to_owned();
    generate(arguments.shell, &mut program, name, &mut script);
    print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(())
}
