"""The barest script that does the same as `visiontool predict img.jpg -m model.onnx`: the lower bound in cold_start.py.

It uses numpy, Pillow, onnxruntime and argparse: bicubic resize of the short side, center crop, one run, softmax, top 5.
"""

import argparse

import numpy as np
import onnxruntime
from PIL import Image

parser = argparse.ArgumentParser()
parser.add_argument("image")
parser.add_argument("-m", "--model", required=True)
arguments = parser.parse_args()

session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
height, width = session.get_inputs()[0].shape[1:3]
picture = Image.open(arguments.image).convert("RGB")
scale = max(height / picture.height, width / picture.width)
picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
left, top = (picture.width - width) // 2, (picture.height - height) // 2
pixels = np.asarray(picture.crop((left, top, left + width, top + height)))[None]
logits = session.run(["logits"], {"image": pixels})[0][0]
powers = np.exp(logits - logits.max())
for index in powers.argsort()[::-1][:5]:
    print(index, powers[index] / powers.sum())
