"""From what `--model` says to a folder with a checkpoint in it. docs/files.md tells users the same.

    ""                    the default model
    a folder              as it is; it wins over a name on the hub
    a file.gguf           converted, once, into the cache
    org/name              from the hub's cache or the hub
    org/name:file.gguf    that one file from there, converted

Dummy weights need a config only; where no tokenizer is beside it, a byte-level one is made.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from pdrt.config import LoadFormat
from pdrt.errors import ConfigError, ModelError
from pdrt.model import byte_tokenizer, gguf
from pdrt.model.cache import make_once
from pdrt.model.checkpoint import read_spec
from pdrt.model.default_model import NAME as DEFAULT_MODEL
from pdrt.model.default_model import default_model
from pdrt.model.hub import HubModel

SHIPPED = Path(__file__).parent / "configs"  # org--name/config.json, for dummy weights
HUB_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(:(?P<file>\w[\w./-]*\.gguf))?", re.ASCII)


def resolve(
    model: str, cache: Path, revision: str | None = None, load_format: LoadFormat = "auto"
) -> Path:
    """The folder of the checkpoint that the setting `model` names.

    Args:
        cache: where converted and completed checkpoints are kept.
        revision: a branch, tag or commit of a repository on the hub.

    Raises:
        ConfigError: the settings contradict each other.
        ModelError: there is nothing of that name, or it cannot be had.
    """
    path, name = _local(model), HUB_NAME.fullmatch(model)
    if revision is not None and (path or not name):
        what = "is a local one" if path else "is not on the hub"
        which = f"the model {model!r}" if model else "the default model"
        raise ConfigError(f"--revision is {revision!r}, but {which} {what}; leave it out")
    if load_format == "dummy":
        return with_tokenizer(_config_folder(model, cache, revision), cache)
    _check_format(model, load_format)
    if not model:
        return default_model(cache)
    if path:
        return _convert(path, cache) if path.is_file() else path
    if name and name["file"]:
        return _convert(HubModel(name["repo"], revision, name["file"]).fetch(), cache)
    if name:
        return HubModel(model, revision).fetch()
    raise _unknown(model)


def display_name(model: str) -> str:
    """What a model is called where nobody named it: a folder or file without its path."""
    path = _local(model)
    if path:
        return path.stem if path.is_file() else path.name
    return model or DEFAULT_MODEL


def with_tokenizer(folder: Path, cache: Path) -> Path:
    """`folder`, or one in the cache that has its config and a byte-level tokenizer."""
    if (folder / "tokenizer.json").is_file():
        return folder
    configs = [folder / name for name in ("config.json", "generation_config.json")]
    configs = [path for path in configs if path.is_file()]
    spec = read_spec(folder)

    def build(partial: Path) -> None:
        for path in configs:
            shutil.copyfile(path, partial / path.name)
        byte_tokenizer.write_byte_tokenizer(partial, spec.vocab_size, spec.eos_token_ids)

    identity = hashlib.sha256(bytes([byte_tokenizer.VERSION]))
    for path in configs:
        identity.update(path.read_bytes())
    return make_once(cache / "models" / f"config-{identity.hexdigest()[:16]}", build)


def _config_folder(model: str, cache: Path, revision: str | None) -> Path:
    """A folder with config.json; of a model on the hub, nothing big is fetched."""
    path, name = _local(model), HUB_NAME.fullmatch(model)
    if not model:
        return default_model(cache)
    if (path and path.is_file()) or (name and name["file"]):
        raise ConfigError(
            f"--load-format is dummy and {model!r} is a file; give a folder with config.json, or "
            "ORG/NAME"
        )
    if path:
        return path
    if not name:
        raise _unknown(model)
    shipped = SHIPPED / model.replace("/", "--")
    on_hub = HubModel(model, revision, weights=False)
    if shipped.is_dir() and revision is None:
        return on_hub.cached() or shipped
    return on_hub.fetch()


def _local(model: str) -> Path | None:
    """The folder or GGUF file that `model` names, if there is one.

    Raises:
        ModelError: it is there, and nothing that can be used.
    """
    if not model:
        return None
    try:
        path = Path(model).expanduser().resolve()
        if not path.exists():
            return None
    except OSError as error:  # a folder on the way may not be read, or the name is too long
        raise ModelError(f"model {model!r} cannot be looked for: {error.strerror}") from None
    except RuntimeError as error:  # no user of that name
        raise ModelError(f"model {model!r} cannot be looked for: {error}") from None
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"{path} has no config.json; give a folder in Hugging Face layout")
    if path.is_file() and path.suffix != ".gguf":
        raise ModelError(f"{path} is not a folder or a .gguf file; only safetensors and GGUF run")
    return path


def _check_format(model: str, load_format: LoadFormat) -> None:
    is_gguf = not model or model.endswith(".gguf")
    what = f"{model!r}" if model else "the default model"
    if load_format == "safetensors" and is_gguf:
        raise ConfigError(
            f"--load-format is safetensors and {what} is a GGUF file; leave it out, or give a "
            "folder with safetensors"
        )
    if load_format == "gguf" and not is_gguf:
        raise ConfigError(
            f"--load-format is gguf and {what} is no GGUF file; leave it out, or give FILE.gguf "
            "or ORG/NAME:FILE.gguf"
        )


def _convert(path: Path, cache: Path) -> Path:
    return make_once(cache / "models" / _key(path), lambda folder: gguf.convert(path, folder))


def _key(path: Path) -> str:
    """A folder name for this very file: another content has another size or time."""
    stat = path.stat()
    identity = f"{gguf.CONVERSION}\0{path}\0{stat.st_size}\0{stat.st_mtime_ns}"
    return f"{path.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def _unknown(model: str) -> ModelError:
    return ModelError(
        f"model {model!r}: no such folder or file, and no name on the hub (ORG/NAME); give the "
        "path of a local checkpoint, or such a name"
    )
