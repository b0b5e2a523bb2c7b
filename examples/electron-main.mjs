// Electron's main process: pulls images for a window, which shows the progress and may cancel.
//
// Pack the app with `asarUnpack: ['**/*.node']`: a native addon is loaded from a real file. In the preload script:
//   contextBridge.exposeInMainWorld('images', {
//     pull: (reference) => ipcRenderer.invoke('image:pull', reference),
//     cancel: (reference) => ipcRenderer.send('image:cancel', reference),
//     onProgress: (tell) => ipcRenderer.on('image:progress', (_, progress) => tell(progress)),
//   });
import { join } from 'node:path';
import { app, BrowserWindow, ipcMain } from 'electron';
import { ImageError, Registry } from 'microsandbox-image';

const registry = new Registry({ cache: join(app.getPath('userData'), 'images') });
const running = new Map();

/** How much of an image is there, from 0 to 1: bytes of all layers, as they come in. */
function meter() {
  const bytes = new Map();
  let total = 0;
  return (event) => {
    if (event.type === 'resolved') total = event.totalDownloadBytes ?? 0;
    if ('downloadedBytes' in event) bytes.set(event.layerIndex, event.downloadedBytes);
    const sum = [...bytes.values()].reduce((left, right) => left + right, 0);
    return event.type === 'complete' ? 1 : total === 0 ? 0 : Math.min(sum / total, 1);
  };
}

ipcMain.handle('image:pull', async ({ sender }, reference) => {
  const controller = new AbortController();
  const stop = () => controller.abort();
  running.set(reference, controller);
  sender.once('destroyed', stop); // a closed window pulls no more; what came is kept for the next time
  try {
    const pull = registry.pull(reference, { signal: controller.signal });
    const fraction = meter();
    for await (const event of pull) {
      if (!sender.isDestroyed())
        sender.send('image:progress', { reference, type: event.type, fraction: fraction(event) });
    }
    const { manifestDigest, layers, config, cached } = await pull;
    return { manifestDigest, layers, config, cached };
  } catch (error) {
    // Errors lose their fields on the way to a window: send data.
    return { error: { code: error instanceof ImageError ? error.code : error.name, message: error.message } };
  } finally {
    running.delete(reference);
    sender.removeListener('destroyed', stop);
  }
});

ipcMain.on('image:cancel', (_, reference) => running.get(reference)?.abort());

await app.whenReady();
const window = new BrowserWindow({
  width: 800,
  height: 600,
  webPreferences: { preload: join(app.getAppPath(), 'preload.js') },
});
await window.loadFile('index.html');
