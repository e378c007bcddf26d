"""The only code that imports torch, torchvision and timm (pip install "visiontool[train]")."""
