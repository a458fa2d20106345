"""pytorch-fid's InceptionV3 as an extractor: its network, its weights, its resizing."""

import hashlib
import io
import pickle
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from common.classifiers import resize
from common.errors import Stop, first_line

INCEPTION_SIDE = 299
AT_ONCE = 100  # images
INCEPTION_HASH = "6726825d"  # the start of the SHA-256 of the official file


class GlobalMean(nn.Module):
    """Adaptive average pooling to one pixel, but known to vmap in channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class FidInception(nn.Module):
    """pytorch-fid's network up to its last pooling, and the 1008 logits of its last layer."""

    dim = 2048

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        self.body = _fid_inception()
        self.body.load_state_dict(state)
        self.head, self.body.fc = self.body.fc, nn.Identity()
        self.body.avgpool = GlobalMean()
        self.body.to(memory_format=torch.channels_last)  # of the weights, which the maps follow

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = x.split(AT_ONCE)  # one layer's maps of 500 images would take 3 GB
        features = torch.cat([self.body(part) for part in parts])  # (N,3,299,299) -> (N,2048)
        return features, self.head(features)

    @staticmethod
    def fit(x: Tensor) -> Tensor:
        """Grey in three channels, resized as pytorch-fid resizes."""
        return resize(x, INCEPTION_SIDE).expand(-1, 3, -1, -1)


def _fid_inception():
    """torchvision's InceptionV3 with the blocks that pytorch-fid replaces, its weights not set.

    pytorch_fid.inception.fid_inception_v3 builds the same, and downloads its weights each time.
    """
    import torchvision  # slow to import, and only needed here
    from pytorch_fid import inception as fid

    body = torchvision.models.inception_v3(
        weights=None, num_classes=1008, aux_logits=False, init_weights=False
    )
    for name, channels, features in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        setattr(body, f"Mixed_{name}", fid.FIDInceptionA(channels, pool_features=features))
    for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        setattr(body, f"Mixed_{name}", fid.FIDInceptionC(768, channels_7x7=width))
    body.Mixed_7b, body.Mixed_7c = fid.FIDInceptionE_1(1280), fid.FIDInceptionE_2(2048)
    return body


def load_inception(weights: str | None) -> tuple[FidInception, str]:
    """The network and the SHA-256 of its file, a local one or pytorch-fid's download."""
    path = Path(weights) if weights else _download_inception()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Stop(f"{path}: cannot be read ({error.strerror}); see --inception_weights") from None
    digest = hashlib.sha256(content).hexdigest()
    named = re.search(r"-([0-9a-f]{8,64})\.pth$", path.name)  # torch's own habit: name-<hash>.pth
    if named and not digest.startswith(named[1]):
        raise Stop(
            f"{path}: damaged, its SHA-256 is {digest[:16]}… but its name says {named[1]}; "
            "delete it and download it again"
        )
    if not digest.startswith(INCEPTION_HASH):
        print(f"{path}: not pytorch-fid's own weights, SHA-256 {digest}")
    try:
        return FidInception(torch.load(io.BytesIO(content), weights_only=True)), digest
    except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError, AttributeError) as error:
        reason = first_line(error)
        raise Stop(f"{path}: does not hold pytorch-fid's InceptionV3 ({reason})") from None


def _download_inception():
    from pytorch_fid.inception import FID_WEIGHTS_URL

    path = Path(torch.hub.get_dir()) / "checkpoints" / FID_WEIGHTS_URL.rsplit("/", 1)[-1]
    if path.is_file():
        return path
    print(f"{path} not found: downloading {FID_WEIGHTS_URL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(FID_WEIGHTS_URL, str(path), hash_prefix=INCEPTION_HASH)
    except (OSError, RuntimeError) as error:
        raise Stop(
            f"the inception extractor needs {FID_WEIGHTS_URL}, and the download failed ({error}); "
            "fetch that file elsewhere and name it with --inception_weights, "
            "or leave out --extractor"
        ) from None
    return path
