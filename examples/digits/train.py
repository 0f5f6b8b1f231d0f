"""Train a small network on scikit-learn's digits with DistributedDataParallel, on CPU or GPU.

    madang run -f examples/digits/job.yaml --wait

Every rank holds its share of the training images. Rank 0 reports the curve and writes a checkpoint
after each epoch; a run that is stopped, killed or moved goes on from the last one.
"""

import argparse
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import madang


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images (n, 64) in [0, 1] and their labels (n,)."""
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16.0, labels, test_size=0.2, random_state=0, stratify=labels)
    train_x, test_x, train_y, test_y = (torch.tensor(part) for part in split)
    return train_x.float(), train_y.long(), test_x.float(), test_y.long()


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore the newest checkpoint. Returns the first epoch still to do."""
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    print(f"resumed after epoch {saved['epoch']}", flush=True)
    return int(saved["epoch"]) + 1


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    """Write the checkpoint whole or not at all."""
    part = path.with_suffix(".part")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
    torch.save(state, part)
    part.replace(path)


def everyone_stops(stop: bool) -> bool:
    """True on all ranks if any rank was told to stop: they must leave the loop together."""
    flag = torch.tensor(int(stop))
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, batch: int
) -> float:
    """One pass over this rank's share. Returns the mean loss of the last batch over all ranks."""
    order = torch.randperm(len(images))
    loss = torch.tensor(0.0)
    for begin in range(0, len(order) - batch + 1, batch):
        rows = order[begin : begin + batch]
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    return float(mean) / dist.get_world_size()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds-per-epoch", type=float, default=0.0, help="for demonstrations")
    options = parser.parse_args()

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(rank)
    train_x, train_y, test_x, test_y = digits()
    share_x, share_y = train_x[rank::world], train_y[rank::world]
    share = len(train_x) // world  # equal steps on every rank, or the last all-reduce hangs
    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    checkpoint = madang.checkpoint_dir() / "digits.pt"
    first = load(checkpoint, network, optimizer)

    for epoch in range(first, options.epochs):
        loss = train_epoch(model, optimizer, share_x[:share], share_y[:share], options.batch)
        if rank == 0:
            with torch.no_grad():
                accuracy = (network(test_x).argmax(1) == test_y).float().mean().item()
            save(checkpoint, network, optimizer, epoch)
            madang.report(step=epoch, loss=loss, accuracy=accuracy)
            print(f"epoch {epoch} loss {loss:.4f} accuracy {accuracy:.4f}", flush=True)
        if everyone_stops(madang.should_stop()):
            print(f"rank {rank} was told to stop after epoch {epoch}", flush=True)
            break
        if options.seconds_per_epoch:
            time.sleep(options.seconds_per_epoch)
    dist.barrier()  # nobody tears the group down while another still talks
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
