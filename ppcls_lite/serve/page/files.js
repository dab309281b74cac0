// Where files come from: a drop with whole folders in it, and pasted images.

export function isImage(file) {
  return file.type.startsWith("image/");
}

// All files of a drop. Folders are read to their ends; what is no image in them is left out.
export async function dropped(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  // Both must be asked before the event has passed.
  const found = items.map((item) => [item.webkitGetAsEntry?.(), item.getAsFile()]);
  const lists = found.map(([entry, file]) => (entry?.isDirectory ? inside(entry) : [file]));
  return (await Promise.all(lists)).flat();
}

async function inside(folder) {
  const reader = folder.createReader(), files = [];
  for (;;) {  // a reader gives a hundred entries at a time
    const entries = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!entries.length) return files;
    for (const entry of entries) {
      if (entry.isDirectory) files.push(...await inside(entry));
      else {
        const file = await new Promise((done, fail) => entry.file(done, fail));
        if (isImage(file)) files.push(file);
      }
    }
  }
}

export function pasted(transfer) {
  return [...transfer.files].filter(isImage);
}
