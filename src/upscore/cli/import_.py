"""`upscore import`: a checkpoint of another project becomes a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from upscore.errors import UserError


def import_(
    checkpoint: Path,
    /,
    *,
    source: Annotated[Literal["pytorch-fcn", "torchvision"], Parameter(name="--from")],
    output: Path,
    classes: str | None = None,
    at_once: Annotated[bool, Parameter(negative=())] = False,
    model: str | None = None,
) -> None:
    """Turn a checkpoint of another project into a model folder.

    ```
    upscore import fcn8s_from_caffe.pth --from pytorch-fcn --output voc
    upscore import fcn8s-atonce_from_caffe.pth --from pytorch-fcn \\
        --at-once --output voc
    upscore import vgg16-397923af.pth --from torchvision \\
        --model fcn32s --classes classes.txt --output start
    ```

    Nothing in the file is run: tensors alone are read.

    Parameters
    ----------
    checkpoint
        A file of weights: .safetensors, or what torch.save wrote.
    source
        pytorch-fcn: FCN-32s, 16s, 8s or 8s at once.
        torchvision: its vgg16 classifier, to be trained further.
    output
        The model folder to write.
    classes
        A file with a class name a line, or the number of classes.
        Without it 21 classes of pytorch-fcn are taken for PASCAL VOC's.
    at_once
        pytorch-fcn: the weights are of FCN-8s trained at once, which
        look like those of FCN-8s but need their skips scaled.
    model
        torchvision: the network to make, fcn32s if not given.
    """
    if source == "pytorch-fcn" and model is not None:
        raise UserError(f"--model {model}: a checkpoint of pytorch-fcn says itself which network it is; leave it out")
    if source == "torchvision" and at_once:
        raise UserError("--at-once is for --from pytorch-fcn; give --model fcn8s-atonce")
    if source == "torchvision" and classes is None:
        raise UserError("--from torchvision needs --classes: a file with a class name a line, or their number")

    from upscore.checkpoints.folder import save_model
    from upscore.checkpoints.pytorch_fcn import import_pytorch_fcn
    from upscore.checkpoints.read import read_checkpoint, read_state_dict
    from upscore.checkpoints.torchvision_vgg import import_torchvision_vgg16

    names = None if classes is None else _read_names(classes)
    if source == "pytorch-fcn":
        net = import_pytorch_fcn(read_checkpoint(checkpoint), at_once=at_once)
        names = names or _default_names(net.num_classes)
    else:
        assert names is not None
        net = import_torchvision_vgg16(read_state_dict(checkpoint), model or "fcn32s", num_classes=len(names))
    if len(names) != net.num_classes:
        raise UserError(f"--classes {classes}: {len(names)} classes, but {checkpoint} scores {net.num_classes}")
    save_model(output, net, classes=names, training={"imported_from": source, "file": checkpoint.name})
    trained = "" if source == "pytorch-fcn" else "; its scores are zero until it is trained"
    print(f"{output}: {net.architecture['name']} over vgg16 with {net.num_classes} classes{trained}")


def _read_names(classes: str) -> list[str]:
    from upscore.data.classes import read_classes
    from upscore.labels import MAX_CLASSES

    if not classes.isdecimal():
        return read_classes(Path(classes))
    if not 1 <= int(classes) <= MAX_CLASSES:
        raise UserError(f"--classes {classes}: there must be from 1 to {MAX_CLASSES}")
    return [f"class_{index}" for index in range(int(classes))]


def _default_names(count: int) -> list[str]:
    from upscore.data.voc import CLASSES

    return list(CLASSES) if count == len(CLASSES) else [f"class_{index}" for index in range(count)]
