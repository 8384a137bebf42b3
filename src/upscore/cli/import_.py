"""`upscore import`: convert a checkpoint of another project into a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from upscore.errors import UserError

if TYPE_CHECKING:
    from upscore.models.fcn.fcn import FCN
    from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN

Source = Literal["pytorch-fcn", "torchvision", "detectron2"]


def import_(
    checkpoint: Path,
    /,
    *,
    source: Annotated[Source, Parameter(name="--from")],
    output: Path,
    classes: str | None = None,
    at_once: Annotated[bool, Parameter(negative=())] = False,
    model: str | None = None,
) -> None:
    """Convert a checkpoint of another project into a model folder.

    ```
    upscore import fcn8s_from_caffe.pth --from pytorch-fcn --output voc
    upscore import fcn8s-atonce_from_caffe.pth --from pytorch-fcn \\
        --at-once --output voc
    upscore import maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth \\
        --from torchvision --output coco
    upscore import model_final_f10217.pkl --from detectron2 --output coco
    upscore import vgg16-397923af.pth --from torchvision \\
        --model fcn32s --classes classes.txt --output start
    ```

    Only tensors are read from the file; no code in it is run. A detector keeps
    the rules of its code base: it returns up to 100 objects with scores above
    0.05, which may overlap. Overlays show those with scores from 0.5 on.

    Parameters
    ----------
    checkpoint
        A file of weights: .safetensors, a file of torch.save, or a .pkl of
        detectron2.
    source
        pytorch-fcn: FCN-32s, 16s, 8s or 8s at once.
        torchvision: its Mask R-CNN (v1 and v2, also fine-tuned), or its
        vgg16 classifier, to be trained further.
        detectron2: Mask R-CNN with ResNet-50 or 101, FPN or C4.
    output
        The model folder to write.
    classes
        A file with one class name per line, or the number of classes. By
        default, 21 classes of pytorch-fcn are PASCAL VOC's, 90 of torchvision
        and 80 of detectron2 are COCO's.
    at_once
        pytorch-fcn: the weights are those of FCN-8s at once, which have the
        same names as those of FCN-8s but need scaled skip connections.
    model
        The network to build from vgg16; fcn32s by default.
    """
    if source != "torchvision" and model is not None:
        raise UserError(f"--model {model} applies to --from torchvision only: leave it out with --from {source}")
    if source != "pytorch-fcn" and at_once:
        remedy = "give --model fcn8s-atonce" if source == "torchvision" else "leave it out"
        raise UserError(f"--at-once applies to --from pytorch-fcn only: {remedy}")

    from upscore.checkpoints.model_folder import refuse_others, save_model
    from upscore.files import require_writable

    refuse_others(output)
    require_writable(output.parent, "choose another --output")
    names_given = None if classes is None else _read_names(classes)
    if source == "pytorch-fcn":
        net = _from_pytorch_fcn(checkpoint, at_once)
    elif source == "torchvision":
        net = _from_torchvision(checkpoint, model, names_given)
    else:
        net = _from_detectron2(checkpoint)
    names = names_given or net.classes
    if len(names) != net.num_classes:
        raise UserError(
            f"--classes {classes} gives {len(names)} classes, but {checkpoint} has {net.num_classes}: give as many "
            "names"
        )
    save_model(output, net, classes=names, training={"imported_from": source, "file": checkpoint.name})
    options = net.architecture
    untrained = "; train it before use" if source == "torchvision" and net.task == "semantic" else ""
    print(f"{output}: {options['name']} with backbone {options['backbone']}, {net.num_classes} classes{untrained}")


def _from_pytorch_fcn(checkpoint: Path, at_once: bool) -> FCN:
    from upscore.checkpoints.importers.pytorch_fcn import import_pytorch_fcn
    from upscore.checkpoints.importers.state_dict import read_checkpoint
    from upscore.data.formats.voc import CLASSES

    net = import_pytorch_fcn(read_checkpoint(checkpoint), at_once=at_once)
    if net.num_classes == len(CLASSES):
        net.classes = list(CLASSES)
    return net


def _from_torchvision(checkpoint: Path, model: str | None, classes: list[str] | None) -> FCN | MaskRCNN:
    from upscore.checkpoints.importers.state_dict import read_state_dict
    from upscore.checkpoints.importers.torchvision import (
        import_torchvision_mask_rcnn,
        import_torchvision_vgg16,
        is_detector,
    )

    state = read_state_dict(checkpoint)
    if is_detector(state):
        if model is not None:
            raise UserError(f"--model {model} does not apply to {checkpoint}, which is a Mask R-CNN: leave it out")
        return import_torchvision_mask_rcnn(state)
    if classes is None:
        raise UserError(
            f"{checkpoint} is not a Mask R-CNN: to build an FCN from a vgg16 classifier, add --classes with the number "
            "of classes, or with a file with one class name per line"
        )
    return import_torchvision_vgg16(state, model or "fcn32s", num_classes=len(classes))


def _from_detectron2(checkpoint: Path) -> MaskRCNN:
    from upscore.checkpoints.importers.detectron2 import import_detectron2, read_detectron2

    return import_detectron2(read_detectron2(checkpoint))


def _read_names(classes: str) -> list[str]:
    from upscore.data.formats.class_names import read_classes
    from upscore.labels import MAX_CLASSES

    if not classes.isdecimal():
        return read_classes(Path(classes))
    if not 1 <= int(classes) <= MAX_CLASSES:
        raise UserError(f"--classes {classes} is invalid: give a number from 1 to {MAX_CLASSES}")
    return [f"class_{index}" for index in range(int(classes))]
