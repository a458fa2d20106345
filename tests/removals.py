"""The protections of the code, each with what is left without it and the tests that notice."""

# ruff: noqa: E501, the texts below are lines of the code

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Removal:
    """A protection, the text that makes it, what is left without it, and the tests to run."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    hangs: bool = False  # without the protection the tests come to no end


def removals() -> list[Removal]:
    """Those written below, and every range of a flag of flags.py."""
    return [*LISTED, *ranges()]


def ranges() -> list[Removal]:
    """Each `type=` of a flag, replaced by int or float without a range."""
    path, found = "common/flags.py", []
    pattern = r'add\("(\w+)", [^\n]*?type=((?:number\([^()]*\)|[\w.]+))\)'
    for match in re.finditer(pattern, (ROOT / path).read_text()):
        name, kind = match[1], match[2]
        if kind in ("parameter", "device"):
            continue
        whole = kind not in ("positive",) and not kind.startswith("number(float")
        new = match[0].replace(f"type={kind}", f"type={'int' if whole else 'float'}")
        tests = "tests/test_flags.py -k wrong_values"
        found.append(Removal(f"range of --{name}", path, match[0], new, tests))
    return found


RUNS, CHECKPOINT = "tests/test_runs.py", "tests/test_checkpoint.py"
FOREIGN, SEARCH = "tests/test_foreign_files.py", "tests/test_search.py"
PARTS, METRICS = "tests/test_search_parts.py", "tests/test_metrics.py"
REFERENCES = "tests/test_references.py"
FLAGS = "tests/test_flags.py"
LISTED = [
    # --- sealed files
    Removal("magic", "common/checkpoint.py", " or not content.startswith(MAGIC)", "",
            f"{CHECKPOINT} -k mutations"),
    Removal("length", "common/checkpoint.py", "len(body) != length or ", "",
            f"{CHECKPOINT} -k mutations"),
    Removal("SHA-256", "common/checkpoint.py",
            " or hashlib.sha256(body).digest() != digest", "", f"{CHECKPOINT} -k mutations"),
    Removal("weights_only", "common/checkpoint.py", "weights_only=True", "weights_only=False",
            f"{CHECKPOINT} -k no_code"),
    Removal("weights_only of Inception", "common/inception.py",
            "FidInception(torch.load(io.BytesIO(content), weights_only=True))",
            "FidInception(torch.load(io.BytesIO(content), weights_only=False))", "tests/test_foreign_files.py -k inception"),
    Removal("fsync of a file", "common/checkpoint.py", "            os.fsync(file.fileno())\n", "",
            f"{CHECKPOINT} -k on_the_disk"),
    Removal("fsync of the folder", "common/checkpoint.py", "        os.fsync(folder)\n",
            "        pass\n", f"{CHECKPOINT} -k on_the_disk"),
    Removal("rename", "common/checkpoint.py", "        os.replace(temporary, path)\n",
            "        path.write_bytes(content)\n        temporary.unlink()\n",
            f"{CHECKPOINT} -k full_disk"),
    Removal("space given back", "common/checkpoint.py",
            "        temporary.unlink(missing_ok=True)  # a full disk gets its space back\n", "",
            f"{CHECKPOINT} -k full_disk"),
    Removal("link in place of a temporary file", "common/checkpoint.py",
            "        temporary.unlink(missing_ok=True)  # of a killed process, or a link to somewhere "
            "else\n        with open(temporary, \"xb\")", "        with open(temporary, \"wb\")",
            f"{FOREIGN} -k temporary_file"),
    Removal("two checkpoints kept", "common/checkpoint.py", "[-2:]", "[-1:]",
            f"{CHECKPOINT} -k last_two"),
    Removal("fallback to the one before", "common/checkpoint.py", "if path == paths[-1]:",
            "if path:", f"{CHECKPOINT} -k last_two"),
    Removal("torn files taken away", "common/checkpoint.py", "        torn.unlink()\n",
            "        pass\n", f"{CHECKPOINT} -k killed_save_left"),
    # --- a run's folder
    Removal("lock of a run", "common/run.py",
            "fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass",
            f"{RUNS} -k two_processes"),
    Removal("links refused", "common/run.py", "        refuse_links(folder)\n", "",
            f"{FOREIGN} -k link_in_a_run"),
    Removal("pipes refused", "common/run_files.py",
            "if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):", "if stat.S_ISLNK(mode):",
            f"{FOREIGN} -k pipe"),
    Removal("a checkpoint knows its run", "common/run.py", "            self.record.check(state)\n",
            "", f"{FOREIGN} -k edited"),
    Removal("a checkpoint knows its data", "common/run_record.py",
            "if state[\"facts\"][name] != fact:", "if False:", f"{FOREIGN} -k odd_content"),
    Removal("a checkpoint knows its script", "common/run_record.py",
            "if state[\"kind\"] != self.kind:", "if False:", f"{FOREIGN} -k odd_content"),
    Removal("data's fingerprint", "common/run_record.py",
            "if self.content.get(name) != fact:", "if False:", f"{FOREIGN} -k other_data"),
    Removal("odd content of a checkpoint", "common/run.py",
            "                except UNFIT as error:", "                except ImportError as error:",
            f"{FOREIGN} -k odd_content"),
    Removal("a checkpoint that no step can be made from", "common/run.py",
            "        elif self.untried and _is_unfit(error):\n", "        elif False:\n",
            f"{FOREIGN} -k odd_content"),
    Removal("tables cut on resuming", "common/run_files.py", "            os.truncate(path, size)\n",
            "", f"{FOREIGN} -k after_the_mark"),
    Removal("tables compared", "common/run_files.py",
            " or self.digests[name].hexdigest() != digest", "", f"{FOREIGN} -k spreadsheet"),
    Removal("shorter tables", "common/run_files.py",
            "(len(content) < size or self.digests[name].hexdigest() != digest)", "False",
            f"{FOREIGN} -k spreadsheet"),
    Removal("a table that is gone", "common/run_files.py", "                if size:\n",
            "                if False:\n", f"{FOREIGN} -k is_gone"),
    Removal("fsync of rows", "common/run_files.py", "                os.fsync(file.fileno())", "                pass",
            f"{FOREIGN} -k rows_are_on_the_disk"),
    Removal("a rate is scaled", "common/training.py", "if peak != self.peak:", "if False:",
            f"{FOREIGN} -k may_be_lowered"),
    Removal("a rate is remembered", "common/run.py",
            "        self.record.note_rates(self.log)\n", "", f"{FOREIGN} -k may_be_lowered"),
    Removal("save on a signal", "common/run.py",
            "if self.signal or time.monotonic() - self.saved >= self.save_seconds:",
            "if time.monotonic() - self.saved >= self.save_seconds:", f"{RUNS} -k a_signal_saves"),
    Removal("a second signal", "common/run.py", "            raise KeyboardInterrupt\n",
            "            pass\n", f"{RUNS} -k second_signal"),
    Removal("flags of a run that is resumed", "common/cli.py", "            if other:\n",
            "            if False:\n", f"{FLAGS} -k resuming"),
    Removal("the script of a run", "common/cli.py", "    if stored_kind != kind:", "    if False:",
            f"{FLAGS} -k resuming"),
    Removal("stored values", "common/cli.py", "            if not fits(action, value):",
            "            if False:", f"{FOREIGN} -k args_json"),
    Removal("places are not stored", "common/cli.py",
            "NOT_STORED = (\"cache_dir\", \"runs_dir\")", "NOT_STORED = ()", f"{FOREIGN} -k cache"),
    Removal("code that a run's folder names", "common/cli.py",
            "            check_code(folder, stored, given)\n", "", f"{FOREIGN} -k names_it"),
    Removal("no download on resuming", "common/flag_checks.py", "        check_data(args)\n",
            "        pass\n", f"{FOREIGN} -k data_may_have_moved"),
    Removal("no download to where a checkpoint says", "common/evaluate.py",
            "        check_place(flags)\n", "        pass\n", "tests/test_judge.py -k downloaded"),
    Removal("flags in a checkpoint", "common/networks.py", " and not cli.fits(_flags()[name], args[name]):",
            " and False:", "tests/test_judge.py -k odd_flags"),
    Removal("what a JSON file lacks", "common/errors.py",
            "        raise Stop(f\"{self.path}: damaged (no {name!r})\")\n",
            "        raise KeyError(name)\n", "tests/test_startup.py -k json_file"),
    Removal("numbers of run folders", "common/run.py", "\"[0-9]{1,9}(?=-)\"", "\"[0-9]{5}(?=-)\"",
            f"{FOREIGN} -k after_99999", hangs=True),
    # --- numbers
    Removal("finite loss", "common/training.py", "    check_finite(value, \"the loss\")\n", "",
            f"{RUNS} -k not_finite"),
    Removal("finite gradient", "common/training.py",
            "    check_finite(norm, \"the gradient's norm\")\n", "", f"{RUNS} -k not_finite"),
    Removal("finite perturbed FID", "common/upper_level.py",
            "        check_finite(slope.value, \"the FID of a perturbed point\")\n", "",
            "tests/test_bilevel.py -k not_finite"),
    Removal("finite exact FID", "common/upper_level.py",
            "        check_finite(slope.value, \"the FID\")\n", "",
            "tests/test_coupled.py -k not_finite"),
    Removal("finite gradient of a schedule, exact", "common/step_rule.py",
            "        check_finite(slopes.abs().sum().item(), \"the gradient of the schedule\")\n", "",
            "tests/test_step_rule.py -k not_finite"),
    Removal("finite gradient of a schedule, zeroth-order", "common/schedule_optimizer.py",
            "        check_finite(sum(map(abs, slopes)), \"the gradient of the schedule\")\n", "",
            "tests/test_step_rule.py -k not_finite"),
    Removal("finite gradient of lambda", "studies/reward/upper.py",
            "        check_finite(row[\"gradient\"], \"the gradient of lambda\")\n", "",
            "tests/test_reward.py -k of_lambda_that_is_not_finite"),
    Removal("finite loss of the study", "studies/lr_schedules/study.py",
            "            check_finite(value, \"the loss\")\n", "            pass\n",
            "tests/test_study_training.py -k not_finite"),
    Removal("finite gradient of the study", "studies/lr_schedules/study.py",
            "            check_finite(norm, \"the gradient's norm\")\n", "",
            "tests/test_study_training.py -k not_finite"),
    Removal("finite features", "metrics.py", "        raise ValueError(\"a feature is not finite\")\n",
            "        pass\n", f"{METRICS} -k refused_before"),
    Removal("weights after a perturbation", "common/weights.py", "        set_weights(net, saved)\n",
            "        pass\n", "tests/test_upper_level.py -k bit_for_bit"),
    Removal("batch norm after a FID", "common/weights.py", "def evaluating(*nets: nn.Module)",
            "def evaluating(*_: nn.Module, nets: tuple = ())", "tests/test_upper_level.py -k evaluating"),
    Removal("bounds of a schedule", "common/families.py", "if not p.low <= value <= p.high:",
            "if False:", "tests/test_scheduler.py -k out_of_bounds"),
    Removal("order of start and end", "common/families.py",
            "    if \"start\" in values and not values[\"end\"] - values[\"start\"] >= MIN_GAP:",
            "    if False:", "tests/test_scheduler.py -k out_of_bounds"),
    Removal("a finite bound", "common/families.py", "FAR = 1e6", "FAR = math.inf",
            "tests/test_scheduler.py -k out_of_bounds"),
    Removal("clamp of beta", "scheduler.py", "min=math.log(1 - MAX_BETA), max=0.0", "max=0.0",
            "tests/test_scheduler.py -k inside_its_bounds"),
    # --- the two levels
    Removal("the implicit term", "common/penalty.py", "self.terms[0].gradient + self.terms[1].gradient",
            "self.terms[0].gradient", "tests/test_penalty.py -k quadratic_it"),
    Removal("averages begin again", "common/penalty.py", "            average.model.n_averaged.zero_()",
            "            pass", "tests/test_penalty.py -k part_by"),
    Removal("the published direct term", "common/uncoupled.py", "return of_q.gradient / gamma + difference",
            "return difference", "tests/test_zeroth_order.py -k published_gradient"),
    Removal("gamma's straight line", "common/uncoupled.py", "* update / max(1", "* 0 / max(1",
            "tests/test_zeroth_order.py -k published_gradient"),
    Removal("correlation of the null band", "common/null_band.py", "updates, r, runs, random)",
            "updates, 0.0, runs, random)", "tests/test_step_rule.py -k band_widens"),
    # --- data and the cache
    Removal("data's SHA-256", "common/data.py",
            "if hashlib.sha256(raw).hexdigest() != expected:", "if False:",
            "tests/test_data.py -k mutations"),
    Removal("cache's checksum", "common/reference_cache.py",
            "if str(file[\"checksum\"]) != _checksum(header, arrays):", "if False:",
            f"{REFERENCES} -k damaged_cache"),
    Removal("cache's key", "common/reference_cache.py", "    if wrong:\n", "    if False:\n",
            f"{REFERENCES} -k something_else"),
    Removal("a cache of another kind", "common/reference_cache.py",
            "    TypeError,  # an .npy in its place is an array, which is no context manager\n", "",
            f"{FOREIGN} -k npy"),
    # --- the search
    Removal("fsync of the ledger", "search/ledger.py", "            os.fsync(file.fileno())\n", "",
            f"{PARTS} -k on_the_disk"),
    Removal("torn last line", "search/ledger.py", "            os.truncate(path, len(whole))\n", "",
            f"{PARTS} -k torn"),
    Removal("lines of the ledger", "search/ledger.py", "                _check(row)\n", "",
            f"{PARTS} -k no_search_writes"),
    Removal("points inside the ranges", "search/ledger.py",
            "and low <= tried[name] <= high", "and True",
            f"{PARTS} -k outside"),
    Removal("a trial that began keeps its point", "search/ledger.py",
            "        begun = trial_folder(", "        return point\n        begun = trial_folder(",
            f"{PARTS} -k that_began"),
    Removal("bad data are no failed trial", "search/trials.py",
            "        Judges.from_flags(device, split=split,", "        dict(",
            f"{SEARCH} -k damaged_data"),
    Removal("a worker lost between trials", "search/trials.py",
            "            except BrokenProcessPool:\n                self._end_pool()\n",
            "            except ZeroDivisionError:\n                self._end_pool()\n",
            f"{SEARCH} -k between_trials"),
    Removal("a worker lost in a trial", "search/trials.py",
            "                except BrokenProcessPool:\n                    broken",
            "                except ZeroDivisionError:\n                    broken",
            f"{SEARCH} -k two_at_once_lose"),
    Removal("a process with a CUDA error", "search/trials.py", "            os._exit(1)\n",
            "            pass\n", f"{SEARCH} -k stays_with_a_cuda"),
    Removal("a full disk is no failed trial", "search/trials.py",
            "        raise  # a full disk is the search's trouble, not the schedule's\n",
            "        return {\"status\": \"failed\", \"reason\": \"disk\"}\n",
            f"{SEARCH} -k full_disk"),
    Removal("an interrupted trial has no row", "search/trials.py",
            "                if result[\"status\"] != \"interrupted\":\n",
            "                if True:\n", "tests/test_search_interrupts.py -k an_interrupted"),
    # --- the comparison
    Removal("lock of a comparison", "comparison/running.py",
            "        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n        return lock",
            "        return lock", "tests/test_reproduce_running.py -k three_processes"),
    Removal("runs end with a comparison", "comparison/running.py",
            "            process.terminate()\n", "            pass\n",
            "tests/test_reproduce_running.py -k outlives"),
    Removal("runs end with a killed comparison", "comparison/child.py",
            "        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)\n", "        pass\n",
            "tests/test_reproduce_running.py -k outlives"),
    # --- the command line
    Removal("empty values", "common/cli.py",
            "if \"\" in values and (namespace is not None or value != action.default):", "if False:",
            f"{FLAGS} -k empty"),
    Removal("finite numbers", "common/cli.py", "if not (finite and low", "if not (low",
            f"{FLAGS} -k wrong_values"),
    Removal("contradicting devices", "common/flag_checks.py",
            "    if args.cpu and args.device not in (\"auto\", \"cpu\"):", "    if False:",
            f"{FLAGS} -k wrong_combinations"),
    Removal("steps of T", "common/flag_checks.py", "    if args.backward_steps > args.timesteps:",
            "    if False:", f"{FLAGS} -k wrong_combinations"),
    Removal("an FID of one image", "common/flag_checks.py", "        if getattr(args, flag) == 1:",
            "        if False:", f"{FLAGS} -k wrong_combinations"),
    Removal("channels in fours", "common/flag_checks.py", "    if args.model_base_dim % 4:", "    if False:",
            f"{FLAGS} -k wrong_combinations"),
    Removal("long names", "common/cli.py",
            "    except OSError as error:  # such as a name that is too long\n",
            "    except ZeroDivisionError as error:\n", f"{FLAGS} -k too_long"),
    # --- the machine
    Removal("errors of the system in one line", "common/errors.py",
            "        case OSError():", "        case ZeroDivisionError():",
            "tests/test_startup.py -k system"),
    Removal("memory in one line", "common/errors.py", "    if out_of_memory(error):",
            "    if False:", "tests/test_startup.py -k memory"),
    Removal("Ctrl-C amid an import", "common/errors.py",
            "        signal.signal(signal.SIGINT, first.on_signal)\n", "        pass\n",
            "tests/test_startup.py -k while_torch"),
    Removal("output that is closed", "common/errors.py",
            "        if getattr(sys, name) is None:", "        if False:",
            "tests/test_startup.py -k is_closed"),
    Removal("text in any locale", "common/errors.py",
            "            stream.reconfigure(errors=\"backslashreplace\")\n", "            pass\n",
            "tests/test_startup.py -k any_locale"),
    Removal("a card's peak begins anew", "common/machine.py",
            "        torch.cuda.reset_peak_memory_stats(device)", "        pass",
            "tests/test_gpu.py -k peak"),
    Removal("a CPU run has no card's peak", "common/machine.py",
            "    if device.type == \"cuda\":\n        peak", "    if True:\n        peak",
            "tests/test_gpu.py -k peak"),
    Removal("a device that is absent", "common/machine.py",
            "    if device.type in there and (device.index or 0) >= there[device.type]:",
            "    if False:", "tests/test_gpu.py -k absent"),
    Removal("evaluation noise from the CPU", "common/sampling.py",
            "self.noise(size, EVAL_SEED, purpose, i, device=\"cpu\")",
            "self.noise(size, EVAL_SEED, purpose, i)", "tests/test_gpu.py -k scripts_give"),
    Removal("noise of the steps by purpose", "common/sampling.py",
            "EVAL_SEED, *names, \"steps\")", "EVAL_SEED, \"steps\")", "tests/test_sampling.py"),
    Removal("noise of the steps by row", "common/sampling.py",
            "device=self.device)[rows].to(x)", "device=self.device)[: len(x)].to(x)",
            "tests/test_sampling.py"),
]  # fmt: skip
