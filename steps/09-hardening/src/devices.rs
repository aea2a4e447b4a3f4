//! Which devices may be opened: the list, and for cgroup v2, which has no file for it, the program that says so. See
//! bpf(2).
//!
//! The kernel runs the program at each open(2) and mknod(2) of a device node by a process of the group, and at those of the
//! groups below. It is a few dozen instructions for a machine with ten registers that the kernel contains.

use std::fmt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use anyhow::{Result, bail};
use nix::sys::stat::{major, minor};
use rootfs::{Volume, path_inside};
use serde::{Deserialize, Serialize};
use shared::failure::During;

/// A line of the list, as cgroup v1 has it: `c 1:3 rwm`. Documentation/admin-guide/cgroup-v1/devices.rst.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    is_block: bool,
    /// None: any.
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

/// Docker's list, which step 02 writes to the files of v1: any node may be made, a few may be opened.
const DEFAULT: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",   // null
    "c 1:5 rwm",   // zero
    "c 1:7 rwm",   // full
    "c 1:8 rwm",   // random
    "c 1:9 rwm",   // urandom
    "c 5:0 rwm",   // tty
    "c 5:1 rwm",   // console
    "c 5:2 rwm",   // ptmx
    "c 136:* rwm", // terminals
];

/// What the program is asked with, and what a rule allows. `BPF_DEVCG_ACC_*` in include/uapi/linux/bpf.h.
const ACCESS: [(char, u8); 3] = [('m', 1), ('r', 2), ('w', 4)];

/// The rules of this list.
pub fn default() -> Vec<DeviceRule> {
    DEFAULT.iter().filter_map(|text| DeviceRule::parse(text)).collect()
}

impl DeviceRule {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let is_block = words.next()? == "b";
        let (major, minor) = words.next()?.split_once(':')?;
        let number = |text: &str| if text == "*" { Some(None) } else { text.parse().ok().map(Some) };
        Some(DeviceRule { is_block, major: number(major)?, minor: number(minor)?, access: access(words.next()?)? })
    }
}

fn access(letters: &str) -> Option<u8> {
    let bit = |letter| ACCESS.iter().find(|(it, _)| *it == letter).map(|(_, bit)| *bit);
    letters.chars().try_fold(0, |all, letter| bit(letter).map(|bit| all | bit)).filter(|all| *all != 0)
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        let letters: String = "rwm"
            .chars()
            .filter(|letter| access(&letter.to_string()).is_some_and(|bit| self.access & bit != 0))
            .collect();
        let kind = if self.is_block { 'b' } else { 'c' };
        write!(f, "{kind} {}:{} {letters}", number(self.major), number(self.minor))
    }
}

/// As it is printed, for who reads a container's plan.
impl Serialize for DeviceRule {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceRule {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        DeviceRule::parse(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("{text} is no line of a list of devices")))
    }
}

/// An instruction of the kernel's machine: `struct bpf_insn`. Documentation/bpf/standardization/instruction-set.rst.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What is done.
    code: u8,
    /// The register that it is done to, in the lower half, and the one that it is done with.
    registers: u8,
    /// How many instructions to skip, or where in memory.
    offset: i16,
    /// A number that it is done with.
    number: i32,
}

const LOAD: u8 = 0x61; // of 32 bits
const LOAD_HALF: u8 = 0x69; // of 16
const SET: u8 = 0xb7;
const SKIP_UNLESS_EQUAL: u8 = 0x55;
const SKIP_IF_ANY_BIT: u8 = 0x45;
const EXIT: u8 = 0x95;

const fn instruction(code: u8, to: u8, from: u8, offset: i16, number: i32) -> Instruction {
    Instruction { code, registers: from << 4 | to, offset, number }
}

/// The program. Register 1 has the address of what is asked, register 0 is the answer. The first line of the list of
/// which all is so ends it; where there is none, the answer is no.
pub fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let (answer, question, kind, access, major, minor) = (0, 1, 2, 3, 4, 5);
    let mut program = vec![
        instruction(LOAD_HALF, kind, question, 0, 0),
        instruction(LOAD_HALF, access, question, 2, 0),
        instruction(LOAD, major, question, 4, 0),
        instruction(LOAD, minor, question, 8, 0),
        instruction(SET, answer, 0, 0, 1),
    ];
    for rule in rules {
        let mut all_so = vec![(SKIP_UNLESS_EQUAL, kind, if rule.is_block { 1 } else { 2 })];
        all_so.extend(rule.major.map(|number| (SKIP_UNLESS_EQUAL, major, number as i32)));
        all_so.extend(rule.minor.map(|number| (SKIP_UNLESS_EQUAL, minor, number as i32)));
        if rule.access != 7 {
            all_so.push((SKIP_IF_ANY_BIT, access, i32::from(7 & !rule.access)));
        }
        // Else on to the next line: past the checks that are left, and past the exit.
        for (checks_left, (code, register, number)) in (0..all_so.len() as i16).rev().zip(all_so) {
            program.push(instruction(code, register, 0, checks_left + 1, number));
        }
        program.push(instruction(EXIT, 0, 0, 0, 0));
    }
    program.extend([instruction(SET, answer, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

/// As one would say it.
impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Instruction { code, registers, offset, number } = self;
        let (to, from) = (registers & 15, registers >> 4);
        match *code {
            LOAD => write!(f, "r{to} = the 32 bits at r{from} + {offset}"),
            LOAD_HALF => write!(f, "r{to} = the 16 bits at r{from} + {offset}"),
            SET => write!(f, "r{to} = {number}"),
            SKIP_UNLESS_EQUAL => write!(f, "r{to} != {number}: skip {offset}"),
            SKIP_IF_ANY_BIT => write!(f, "r{to} & {number}: skip {offset}"),
            EXIT => write!(f, "exit"),
            other => write!(f, "{other:#x}"),
        }
    }
}

/// A device of the host's that the child may have, too: its node is bound into the root, and a rule allows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Device {
    source: PathBuf,
    target: PathBuf,
    access: u8,
}

/// `PATH[:PATH[:rwm]]`, as Docker has it.
///
/// # Errors
/// A relative path inside; other letters.
pub fn device(text: &str) -> Result<Device, String> {
    let parts: Vec<_> = text.split(':').collect();
    let all = |letters: &str| access(letters).ok_or_else(|| "what may be done with a device is r, w and m".to_owned());
    let (source, target, access) = match parts.as_slice() {
        [path] => (path, path, 7),
        [path, letters] if access(letters).is_some() => (path, path, all(letters)?),
        [source, target] => (source, target, 7),
        [source, target, letters] => (source, target, all(letters)?),
        _ => return Err("a device is PATH[:PATH[:rwm]]".to_owned()),
    };
    Ok(Device { source: source.into(), target: path_inside(target)?, access })
}

impl Device {
    /// The rule that allows it.
    ///
    /// # Errors
    /// ENOENT; a file that is no device.
    pub fn rule(&self) -> Result<DeviceRule> {
        let there = self.source.metadata().during(self.source.display())?;
        let is_block = there.file_type().is_block_device();
        if !is_block && !there.file_type().is_char_device() {
            bail!("{} is no device", self.source.display());
        }
        let [major, minor] = [major(there.rdev()), minor(there.rdev())].map(|number| Some(number as u32));
        Ok(DeviceRule { is_block, major, minor, access: self.access })
    }

    /// Its node: no user namespace may make one, but it may bind the host's.
    pub fn volume(&self) -> Volume {
        Volume { source: self.source.clone(), target: self.target.clone(), read_only: false, idmap: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel's machine answers.
    fn answer(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> u64 {
        let question = [kind | access << 16, major, minor];
        let mut registers = [0_u64; 6];
        let mut at = 0_usize;
        loop {
            let Instruction { code, registers: both, offset, number } = program[at];
            let to = usize::from(both & 15);
            let word = question[(offset as usize / 4).min(2)];
            at += 1;
            match code {
                LOAD => registers[to] = u64::from(word),
                LOAD_HALF => registers[to] = u64::from(word >> (offset % 4 * 8) & 0xffff),
                SET => registers[to] = number as u64,
                SKIP_UNLESS_EQUAL if registers[to] != i64::from(number) as u64 => at += offset as usize,
                SKIP_IF_ANY_BIT if registers[to] & i64::from(number) as u64 != 0 => at += offset as usize,
                SKIP_UNLESS_EQUAL | SKIP_IF_ANY_BIT => {}
                EXIT => return registers[0],
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn the_program_answers_as_the_list_says() {
        let program = program(&default());
        let (block, char, make, read, write) = (1, 2, 1, 2, 4);
        for (kind, access, major, minor, allowed) in [
            (char, read | write, 1, 3, true),
            (char, read, 1, 9, true),
            (char, read, 136, 77, true),
            (char, make, 10, 200, true),
            (block, make, 8, 0, true),
            (char, read, 1, 1, false),
            (char, write | make, 1, 11, false),
            (block, read, 1, 3, false),
            (block, read | make, 8, 0, false),
        ] {
            assert_eq!(answer(&program, kind, access, major, minor) == 1, allowed, "{kind} {access} {major}:{minor}");
        }
        assert_eq!(program.len(), 48);
    }

    #[test]
    fn the_text_has_the_table_of_instructions() {
        let text = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../TUTORIAL.md");
        let text = std::fs::read_to_string(text).expect("TUTORIAL.md");
        let rules = ["b *:* m", "c 1:3 rwm"].map(|line| DeviceRule::parse(line).expect("a rule"));
        let program = program(&rules);
        let rows = program.iter().enumerate().map(|(number, it)| format!("| {number} | `{it}` | "));
        let found: Vec<_> = rows.map(|row| text.find(&row).unwrap_or_else(|| panic!("no {row}"))).collect();
        assert!(found.is_sorted() && found.len() == 14, "{found:?}");
    }

    #[test]
    fn a_rule_with_some_rights_allows_these_alone() {
        let program = program(&[DeviceRule::parse("b 7:0 r").expect("a rule")]);
        assert_eq!([2, 4, 6, 1].map(|access| answer(&program, 1, access, 7, 0)), [1, 0, 0, 0]);
        assert_eq!(answer(&program, 1, 2, 7, 1), 0, "another device");
    }

    #[test]
    fn a_rule_is_printed_as_it_is_read() {
        assert_eq!(default().iter().map(DeviceRule::to_string).collect::<Vec<_>>(), DEFAULT);
        for bad in ["", "c", "c 1", "c 1:3", "c a:b r", "c 1:3 x", "c 1:3 "] {
            assert_eq!(DeviceRule::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_device_is_a_path_or_two_and_its_rights() {
        let parsed = |text: &str| {
            device(text).map(|it| (it.source.display().to_string(), it.target.display().to_string(), it.access))
        };
        let both = |a: &str, b: &str, access| Ok((a.to_owned(), b.to_owned(), access));
        assert_eq!(parsed("/dev/fuse"), both("/dev/fuse", "/dev/fuse", 7));
        assert_eq!(parsed("/dev/fuse:r"), both("/dev/fuse", "/dev/fuse", 2));
        assert_eq!(parsed("/dev/a:/dev/b:rw"), both("/dev/a", "/dev/b", 6));
        assert!(["/dev/a:b", "/dev/a:/dev/b:x", "/dev/a:/dev/b:r:w"].iter().all(|text| device(text).is_err()));
    }
}
