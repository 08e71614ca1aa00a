"""A headless Chromium for the tests of pages, spoken to by its DevTools protocol over two pipes.

The environment variable CHROMIUM names the program; else one on the PATH is taken.
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome',
         'headless_shell')
SKIP = 'no Chromium: name one in the environment variable CHROMIUM, or put one on the PATH'
FLAGS = ('--headless', '--no-sandbox', '--no-zygote', '--disable-gpu', '--disable-dev-shm-usage',
         '--hide-scrollbars', '--no-first-run', '--disable-background-networking',
         '--remote-debugging-pipe')


def find_chromium():
    """Return the path of a Chromium; None where there is none."""
    return os.environ.get('CHROMIUM') or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a browser. Counts what goes wrong in it and what it asks the network for."""

    def __init__(self, profile):
        ends = [*os.pipe(), *os.pipe()]  # to the browser, and from it
        there = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (ends[0], ends[3])]

        def place():  # the protocol reads from 3 and writes to 4
            os.dup2(there[0], 3)
            os.dup2(there[1], 4)

        self._process = subprocess.Popen(
            [find_chromium(), *FLAGS, f'--user-data-dir={profile}', 'about:blank'],
            preexec_fn=place, pass_fds=(3, 4), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for fd in (ends[0], ends[3], *there):
            os.close(fd)
        self._to, self._from = os.fdopen(ends[1], 'wb', 0), os.fdopen(ends[2], 'rb')
        self._count, self._session, self._events = 0, None, []
        target = next(t for t in self.call('Target.getTargets')['targetInfos']
                      if t['type'] == 'page')
        self._session = self.call('Target.attachToTarget', targetId=target['targetId'],
                                  flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network', 'Accessibility'):
            self.call(f'{domain}.enable')

    def close(self):
        self._to.close()
        self._process.kill()
        self._process.wait()
        self._from.close()

    def call(self, method, **params):
        """Return the result of a method of the protocol."""
        self._count += 1
        asked = {'id': self._count, 'method': method, 'params': params}
        if self._session:
            asked['sessionId'] = self._session
        self._to.write(json.dumps(asked).encode() + b'\0')
        while (told := self._read()).get('id') != self._count:
            self._events.append(told)
        assert 'error' not in told, told
        return told['result']

    def _read(self):
        text = bytearray()
        while (byte := self._from.read(1)) != b'\0':
            assert byte, 'the browser ended'
            text += byte
        return json.loads(text)

    def open(self, path, width=1280, dark=False, height=900):
        """Show a file and wait until it is loaded; what was told before is forgotten."""
        self._events.clear()
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height,
                  deviceScaleFactor=1, mobile=False)
        self.call('Emulation.setEmulatedMedia', features=[
            {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}])
        self.call('Page.navigate', url=Path(path).resolve().as_uri())
        while not self.told('Page.loadEventFired'):
            self._events.append(self._read())

    def told(self, *methods):
        """Return the parameters of the events of these kinds since the page was opened."""
        return [event['params'] for event in self._events if event.get('method') in methods]

    def wrong(self):
        """Return the errors and warnings of the page, whoever told them."""
        return self.told('Runtime.exceptionThrown', 'Runtime.consoleAPICalled', 'Log.entryAdded')

    def requests(self):
        """Return the addresses that the page asked for; those within itself do not count."""
        return [request['request']['url'] for request in self.told('Network.requestWillBeSent')
                if not request['request']['url'].startswith('data:')]

    def run(self, script):
        """Return the value of an expression of JavaScript in the page."""
        done = self.call('Runtime.evaluate', expression=script, returnByValue=True)
        assert 'exceptionDetails' not in done, done
        return done['result'].get('value')

    def screenshot(self):
        """Return the whole page as a PNG file."""
        data = self.call('Page.captureScreenshot', captureBeyondViewport=True)['data']
        return base64.b64decode(data)
