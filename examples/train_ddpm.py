"""Train a DDPM of MNIST's digits with diffusers' own classes, and separate with it.

pip install 'basis-cli[diffusers]'
python examples/train_ddpm.py ~/data/mnist ddpm-mnist --minutes 60
basis separate examples/digits.png --prior diffusers:ddpm-mnist

Nothing here knows of basis. The recipe is that of Hugging Face's diffusion course for this data (UNet2DModel, a cosine
schedule, AdamW), with v-prediction and averaged weights, which need fewer steps, and a learning rate that falls by the
clock.
"""

import argparse
import gzip
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel

arguments = argparse.ArgumentParser()
arguments.add_argument("data", type=Path, help="folder of train-images-idx3-ubyte.gz")
arguments.add_argument("out", type=Path)
arguments.add_argument("--minutes", type=float, default=60)
arguments.add_argument("--batch", type=int, default=32)
arguments.add_argument("--learning-rate", type=float, default=1e-3)
given = arguments.parse_args()

torch.manual_seed(0)
raw = gzip.decompress((given.data / "train-images-idx3-ubyte.gz").read_bytes())
digits = torch.from_numpy(np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28).copy())
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
unet = UNet2DModel(
    sample_size=28,
    in_channels=1,
    out_channels=1,
    layers_per_block=1,
    block_out_channels=(32, 64, 96),
    down_block_types=("DownBlock2D", "DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D", "UpBlock2D"),
    norm_num_groups=8,
    attention_head_dim=32,
).to(device, memory_format=torch.channels_last)
scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
averaged = EMAModel(unet.parameters(), decay=0.9995, use_ema_warmup=True, power=0.75)
optimizer = torch.optim.AdamW(unet.parameters(), lr=given.learning_rate)
print(f"{sum(p.numel() for p in unet.parameters()):,} parameters", flush=True)


def save():
    averaged.store(unet.parameters())
    averaged.copy_to(unet.parameters())
    unet.to(memory_format=torch.contiguous_format)  # before diffusers 0.34, files hold nothing else
    DDPMPipeline(unet, scheduler).save_pretrained(given.out)
    unet.to(memory_format=torch.channels_last)
    averaged.restore(unet.parameters())


began = saved = time.monotonic()
step, loss_sum, progress = 0, 0.0, 0.0
while progress < 1:
    progress = (time.monotonic() - began) / (60 * given.minutes)
    for group in optimizer.param_groups:
        group["lr"] = (
            given.learning_rate * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * min(progress, 1)))
        )
    x0 = digits[torch.randint(len(digits), (given.batch,))].to(device).float() / 127.5 - 1
    t = (torch.arange(given.batch) + torch.rand(given.batch)) / given.batch  # stratified
    t = (t * scheduler.config.num_train_timesteps).long().to(device)
    noise = torch.randn_like(x0)
    x = scheduler.add_noise(x0, noise, t)
    with torch.autocast(device.type, torch.bfloat16):
        predicted = unet(x, t).sample
    loss = (predicted.float() - scheduler.get_velocity(x0, noise, t)).square().mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    averaged.step(unet.parameters())
    step, loss_sum = step + 1, loss_sum + loss.item()
    if step % 50 == 0:
        print(f"{step} steps, {time.monotonic() - began:.0f} s, loss {loss_sum / 50:.4f}", flush=True)
        loss_sum = 0.0
    if time.monotonic() - saved > 240:
        saved = time.monotonic()
        save()
save()
print(f"{step} steps of {given.batch}: {given.out}")
